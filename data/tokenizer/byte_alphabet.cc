#include "data/tokenizer/byte_alphabet.h"

#include <array>

#include "base/utf8.h"

namespace sepia::data {
namespace {

constexpr char32_t kAlphabetEnd = 0x144;
constexpr int kNoByte = -1;

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr auto kSymbols = [] {
  std::array<char32_t, 256> symbols{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    symbols[static_cast<size_t>(byte)] =
        StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return symbols;
}();

constexpr auto kBytes = [] {
  std::array<int, kAlphabetEnd> bytes{};
  for (int& byte : bytes) byte = kNoByte;
  for (size_t byte = 0; byte < 256; ++byte) bytes[kSymbols[byte]] = static_cast<int>(byte);
  return bytes;
}();

}  // namespace

char32_t SymbolOfByte(uint8_t byte) { return kSymbols[byte]; }

std::string BytesToSymbols(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) AppendUtf8(kSymbols[static_cast<uint8_t>(byte)], text);
  return text;
}

std::optional<std::string> SymbolsToBytes(std::string_view text) {
  std::string bytes;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = NextCodePoint(text, position);
    if (c >= kAlphabetEnd || kBytes[c] == kNoByte) return std::nullopt;
    bytes.push_back(static_cast<char>(kBytes[c]));
  }
  return bytes;
}

}  // namespace sepia::data
