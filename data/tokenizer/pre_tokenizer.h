// Splits text into words before BPE, with GPT-2's pattern.
//
// Letters and numbers are Unicode's L and N as the installed PCRE2 knows them (10.42: Unicode 14,
// as Hugging Face tokenizers of Pythia's time). White space is spelled out, because PCRE2's \s
// differs from Unicode's White_Space.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace sepia::data {

// Immutable, thread-safe.
class PreTokenizer {
 public:
  PreTokenizer();
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  // What one thread needs to search.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(Scratch&&) noexcept;
    Scratch& operator=(Scratch&&) noexcept;

   private:
    friend class PreTokenizer;
    struct MatchData;
    std::unique_ptr<MatchData> data_;
  };

  // Where the word that begins at `begin` ends. `text` must be well-formed UTF-8 and `begin` the
  // end of the word before, or 0.
  size_t WordEnd(std::string_view text, size_t begin, Scratch& scratch) const;

 private:
  struct Pattern;
  std::unique_ptr<Pattern> pattern_;
};

}  // namespace sepia::data
