// GPT-2's byte alphabet: each byte has a printable character, so that tokens of raw bytes can be
// written as text. Printable Latin-1 bytes stand for themselves, the others for U+0100 ... U+0143
// in order (encoder.py, bytes_to_unicode, in the GPT-2 release).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sepia::data {

// The character of `byte`: one code point below U+0144.
char32_t SymbolOfByte(uint8_t byte);

// "Ġthe" for " the".
std::string BytesToSymbols(std::string_view bytes);

// The bytes that a token's text stands for; nothing if some character is outside the alphabet
// (added tokens, such as runs of spaces). `text` must be well-formed UTF-8.
std::optional<std::string> SymbolsToBytes(std::string_view text);

}  // namespace sepia::data
