#include "data/tokenizer/nfc.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <vector>

#include <utf8proc.h>

#include "base/check.h"
#include "base/utf8.h"

namespace sepia::data {
namespace {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// Code points with a combining class, with NFC_Quick_Check = No, or that compose with the one
// before (NFC_Quick_Check = Maybe) in Unicode 9 (UCD DerivedNormalizationProps). Everything else is
// a boundary: it never changes and nothing moves across it, except that the active run *behind* it
// may compose with it.
constexpr CodePointRange kActiveRanges[] = {
#include "data/tokenizer/nfc_active_ranges.inc"
};

constexpr char32_t kFirstActive = 0x0300;
constexpr size_t kTableSize = 0x30000;  // no active code point lies beyond plane 2

const std::bitset<kTableSize>& ActiveTable() {
  static const auto* const table = [] {
    auto* bits = new std::bitset<kTableSize>;
    for (const CodePointRange& range : kActiveRanges) {
      for (char32_t c = range.first; c <= range.last; ++c) bits->set(c);
    }
    return bits;
  }();
  return *table;
}

bool IsActive(const std::bitset<kTableSize>& table, char32_t c) {
  return c < kTableSize && table[c];
}

// Canonical ordering: runs of marks sorted by combining class, stable. utf8proc's own ordering
// takes quadratic time on a long run.
void SortMarks(std::vector<int32_t>& code_points) {
  const auto mark_class = [](int32_t c) { return utf8proc_get_property(c)->combining_class; };
  auto begin = code_points.begin();
  while (begin != code_points.end()) {
    if (mark_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end =
        std::find_if(begin, code_points.end(), [&](int32_t c) { return mark_class(c) == 0; });
    std::stable_sort(begin, end,
                     [&](int32_t a, int32_t b) { return mark_class(a) < mark_class(b); });
    begin = end;
  }
}

// NFC of one boundary code point and the active run behind it.
void AppendNormalized(std::string_view segment, std::vector<int32_t>& scratch, std::string& out) {
  scratch.clear();
  size_t position = 0;
  while (position < segment.size()) {
    std::array<int32_t, 8> parts{};
    int last_boundclass = 0;
    const auto count = utf8proc_decompose_char(
        static_cast<int32_t>(NextCodePoint(segment, position)), parts.data(), parts.size(),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE), &last_boundclass);
    CHECK(count > 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()));
    scratch.insert(scratch.end(), parts.begin(), parts.begin() + count);
  }
  SortMarks(scratch);
  const auto length =
      utf8proc_normalize_utf32(scratch.data(), static_cast<utf8proc_ssize_t>(scratch.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  CHECK(length >= 0);
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    AppendUtf8(static_cast<char32_t>(scratch[static_cast<size_t>(i)]), out);
  }
}

// utf8proc may know a class for a mark that Unicode 9 did not: such a mark must not reach it.
bool IsStarter(std::string_view code_point) {
  size_t position = 0;
  const char32_t c = NextCodePoint(code_point, position);
  return utf8proc_get_property(static_cast<int32_t>(c))->combining_class == 0;
}

}  // namespace

std::string_view NormalizeNfc(std::string_view text, std::string& buffer) {
  const auto& active = ActiveTable();
  buffer.clear();
  std::vector<int32_t> scratch;
  size_t copied = 0;    // text[0, copied) is in `buffer`
  size_t boundary = 0;  // where the code point before `position` begins
  size_t position = 0;
  while (position < text.size()) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, position);
    if (c < kFirstActive || !IsActive(active, c)) {
      boundary = begin;
      continue;
    }
    size_t end = position;
    for (size_t next = end; end < text.size(); end = next) {
      if (!IsActive(active, NextCodePoint(text, next))) break;
    }
    const bool has_starter = begin > boundary && IsStarter(text.substr(boundary, begin - boundary));
    const size_t first = has_starter ? boundary : begin;
    buffer.append(text.substr(copied, first - copied));
    AppendNormalized(text.substr(first, end - first), scratch, buffer);
    copied = position = end;
    boundary = end;
  }
  if (copied == 0) return text;
  buffer.append(text.substr(copied));
  return buffer;
}

}  // namespace sepia::data
