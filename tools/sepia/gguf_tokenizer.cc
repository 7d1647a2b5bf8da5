#include "tools/sepia/gguf_tokenizer.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sepia::tools {

using checkpoint::GgufTokenType;

checkpoint::GgufTokenizer MakeGgufTokenizer(const data::Tokenizer& tokenizer, int32_t vocab_size) {
  if (tokenizer.vocab_size() > vocab_size) {
    throw UserError(ExitCode::kBadData,
                    fmt::format("the tokenizer has {} tokens, the model {} only",
                                tokenizer.vocab_size(), vocab_size));
  }
  checkpoint::GgufTokenizer result;
  for (int32_t id = 0; id < vocab_size; ++id) {
    const std::string& text = tokenizer.TokenText(id);
    if (text.empty()) {
      result.tokens.push_back({fmt::format("[PAD{}]", id), GgufTokenType::kUnused});
    } else {
      result.tokens.push_back({text, GgufTokenType::kNormal});
    }
  }
  for (const data::AddedToken& added : tokenizer.spec().added_tokens) {
    result.tokens[static_cast<size_t>(added.id)].type =
        added.special ? GgufTokenType::kControl : GgufTokenType::kUserDefined;
  }
  for (const data::Merge& merge : tokenizer.spec().merges) {
    result.merges.push_back(tokenizer.TokenText(merge.left) + " " +
                            tokenizer.TokenText(merge.right));
  }
  result.end_of_text = tokenizer.IdOf("<|endoftext|>").value_or(0);
  result.padding = tokenizer.IdOf("<|padding|>").value_or(result.end_of_text);
  return result;
}

}  // namespace sepia::tools
