#include "trainer/config_source.h"

#include <cctype>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/model_source.h"
#include "data/tokenizer/tokenizer.h"

namespace sepia::trainer {
namespace {

// "\n" as people write it.
std::string Printable(const std::string& text) {
  std::string printable;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    printable += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return printable;
}

}  // namespace

void ReadModelSourceConfig(const std::string& path, config::ModelConfig* model) {
  checkpoint::OpenModelSource(path)->FillModelConfig(model);
}

std::vector<int32_t> SeparatorIds(const std::string& tokenizer_path,
                                  const std::vector<std::string>& texts) {
  const data::Tokenizer tokenizer = data::Tokenizer::Load(tokenizer_path);
  std::vector<int32_t> ids;
  for (const std::string& text : texts) {
    const std::optional<int32_t> id = tokenizer.SingleTokenId(text);
    if (!id) {
      throw UserError(
          fmt::format("\"{}\" is not a single token of {}; leave it out or train a "
                      "tokenizer that has it",
                      Printable(text), tokenizer_path));
    }
    ids.push_back(*id);
  }
  return ids;
}

}  // namespace sepia::trainer
