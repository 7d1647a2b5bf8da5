#include "base/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace sepia {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool InRange(char c, uint8_t low, uint8_t high) {
  const auto byte = static_cast<uint8_t>(c);
  return byte >= low && byte <= high;
}

// What begins at a position: the bytes that fit Unicode's table 3-7, and whether they are a whole
// sequence. An ill-formed part has at least one byte.
struct Part {
  size_t length;
  bool well_formed;
};

Part PartAt(std::string_view text, size_t position) {
  const auto lead = static_cast<uint8_t>(text[position]);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte is what excludes overlong forms, surrogates and values past U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  const size_t available = std::min(length, text.size() - position);
  for (size_t i = 1; i < available; ++i) {
    const bool fits =
        i == 1 ? InRange(text[position + 1], low, high) : InRange(text[position + i], 0x80, 0xBF);
    if (!fits) return {i, false};
  }
  return {available, available == length};
}

// First byte at or after `position` that is not ASCII.
size_t SkipAscii(std::string_view text, size_t position) {
  while (position + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + position, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    position += 8;
  }
  while (position < text.size() && static_cast<uint8_t>(text[position]) < 0x80) ++position;
  return position;
}

}  // namespace

size_t FirstInvalidUtf8(std::string_view text) {
  size_t position = SkipAscii(text, 0);
  while (position < text.size()) {
    const Part part = PartAt(text, position);
    if (!part.well_formed) return position;
    position = SkipAscii(text, position + part.length);
  }
  return text.size();
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = FirstInvalidUtf8(text);
    result.append(text.substr(0, valid));
    if (valid == text.size()) break;
    result.append(kReplacement);
    text.remove_prefix(valid + PartAt(text, valid).length);
  }
  return result;
}

char32_t NextCodePoint(std::string_view text, size_t& position) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80) {
    position += 1;
    return lead;
  }
  if (lead < 0xE0) {
    const char32_t code_point = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    position += 2;
    return code_point;
  }
  if (lead < 0xF0) {
    const char32_t code_point =
        (lead & 0x0F) << 12 | static_cast<char32_t>(byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    position += 3;
    return code_point;
  }
  const char32_t code_point = (lead & 0x07) << 18 | static_cast<char32_t>(byte(1) & 0x3F) << 12 |
                              static_cast<char32_t>(byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  position += 4;
  return code_point;
}

void AppendUtf8(char32_t code_point, std::string& text) {
  const auto tail = [&](int shift) {
    text.push_back(static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)));
  };
  if (code_point < 0x80) {
    text.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    text.push_back(static_cast<char>(0xC0 | code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    text.push_back(static_cast<char>(0xE0 | code_point >> 12));
    tail(6);
    tail(0);
  } else {
    text.push_back(static_cast<char>(0xF0 | code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace sepia
