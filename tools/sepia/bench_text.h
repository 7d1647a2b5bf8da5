// Tokens for benchmarks: from a text, or random ones with a given share of separators.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sepia::tools {

struct TokensAndSeparators {
  std::vector<int32_t> tokens;
  std::vector<int32_t> separator_ids;
};

// The first `count` tokens of a text, and SepLLM's nine characters where they are single tokens.
// Throws BadData when the text is too short.
TokensAndSeparators TokensOfText(const std::string& text_path, const std::string& tokenizer_path,
                                 int64_t count);

// Uniform ids below vocab_size, a share `density` of which are drawn from `separator_ids` instead.
std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab_size,
                                  std::span<const int32_t> separator_ids, double density);

}  // namespace sepia::tools
