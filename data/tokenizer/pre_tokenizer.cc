#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/pre_tokenizer.h"

#include <string>

#include <pcre2.h>

#include "base/check.h"

namespace sepia::data {
namespace {

// ByteLevel's pattern in Hugging Face tokenizers, with \s spelled out as Unicode's White_Space (25
// code points): 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::string WordPattern() {
  const std::string space =
      R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
  return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)" + space + R"(\p{L}\p{N}]+|[)" + space +
         "]+(?![^" + space + "])|[" + space + "]+";
}

bool IsAsciiLetter(char c) {
  const auto lower = static_cast<unsigned char>(c | 0x20);
  return lower >= 'a' && lower <= 'z';
}

bool IsAscii(char c) { return static_cast<unsigned char>(c) < 0x80; }

}  // namespace

struct PreTokenizer::Pattern {
  pcre2_code* code = nullptr;
  ~Pattern() { pcre2_code_free(code); }
};

struct PreTokenizer::Scratch::MatchData {
  // One pair: where the whole match begins and ends.
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  ~MatchData() { pcre2_match_data_free(data); }
};

PreTokenizer::Scratch::Scratch() : data_(std::make_unique<MatchData>()) {
  CHECK(data_->data != nullptr, "out of memory");
}
PreTokenizer::Scratch::~Scratch() = default;
PreTokenizer::Scratch::Scratch(Scratch&&) noexcept = default;
PreTokenizer::Scratch& PreTokenizer::Scratch::operator=(Scratch&&) noexcept = default;

PreTokenizer::PreTokenizer() : pattern_(std::make_unique<Pattern>()) {
  const std::string pattern = WordPattern();
  int error = 0;
  size_t offset = 0;
  pattern_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr);
  CHECK(pattern_->code != nullptr, "PCRE2 error {} at {}", error, offset);
  // Without JIT (an unusual platform) matching is slower and otherwise the same.
  pcre2_jit_compile(pattern_->code, PCRE2_JIT_COMPLETE);
}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

size_t PreTokenizer::WordEnd(std::string_view text, size_t begin, Scratch& scratch) const {
  // Most words are ASCII letters, perhaps behind a space, and end at another ASCII character: the
  // alternative ` ?\p{L}+` without the engine.
  size_t end = begin + (text[begin] == ' ' ? 1 : 0);
  const size_t letters = end;
  while (end < text.size() && IsAsciiLetter(text[end])) ++end;
  if (end > letters && (end == text.size() || IsAscii(text[end]))) return end;

  const int count =
      pcre2_match(pattern_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin,
                  PCRE2_NO_UTF_CHECK, scratch.data_->data, nullptr);
  CHECK(count > 0, "PCRE2 error {} at byte {}", count, begin);
  const size_t word_end = pcre2_get_ovector_pointer(scratch.data_->data)[1];
  CHECK(word_end > begin && word_end <= text.size());
  return word_end;
}

}  // namespace sepia::data
