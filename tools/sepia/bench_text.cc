#include "tools/sepia/bench_text.h"

#include "base/error.h"
#include "base/file.h"
#include "base/philox.h"
#include "data/tokenizer/tokenizer.h"

namespace sepia::tools {

TokensAndSeparators TokensOfText(const std::string& text_path, const std::string& tokenizer_path,
                                 int64_t count) {
  const data::Tokenizer tokenizer = data::Tokenizer::Load(tokenizer_path);
  TokensAndSeparators result;
  for (const char* separator : {".", ",", "?", "!", ";", ":", " ", "\t", "\n"}) {
    const auto id = tokenizer.SingleTokenId(separator);
    if (id.has_value()) result.separator_ids.push_back(*id);
  }
  result.tokens = tokenizer.Encode(ReadFile(text_path));
  if (static_cast<int64_t>(result.tokens.size()) < count) {
    throw BadData(text_path, -1,
                  fmt::format("holds {} tokens, {} are needed", result.tokens.size(), count),
                  "name a longer text or ask for fewer tokens");
  }
  result.tokens.resize(static_cast<size_t>(count));
  return result;
}

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab_size,
                                  std::span<const int32_t> separator_ids, double density) {
  const PhiloxStream kinds(1, "kinds");
  const PhiloxStream ids(1, "ids");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<uint64_t>(i);
    const uint32_t id = ids.Bits(index);
    const bool separator = !separator_ids.empty() && kinds.Uniform(index) < density;
    tokens.push_back(separator ? separator_ids[id % separator_ids.size()]
                               : static_cast<int32_t>(id % static_cast<uint32_t>(vocab_size)));
  }
  return tokens;
}

}  // namespace sepia::tools
