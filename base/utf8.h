// UTF-8: validation, repair and one code point at a time. Well-formed as in Unicode table 3-7: no
// surrogates, no overlong forms, nothing past U+10FFFF.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sepia {

// Offset of the first byte that does not belong to a well-formed sequence; text.size() if there is
// none.
size_t FirstInvalidUtf8(std::string_view text);

// Every maximal ill-formed part becomes one U+FFFD (Unicode 15, section 3.9, "Substitution of
// Maximal Subparts": what Rust's from_utf8_lossy and Python's errors="replace" do).
std::string ReplaceInvalidUtf8(std::string_view text);

// The code point that begins at `position`, which moves behind it. `text` must be well-formed.
char32_t NextCodePoint(std::string_view text, size_t& position);

void AppendUtf8(char32_t code_point, std::string& text);

}  // namespace sepia
