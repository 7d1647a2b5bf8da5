// What a config takes from other files: the architecture of init_from, token ids of separators.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sepia::config {
class ModelConfig;
}

namespace sepia::trainer {

// The architecture of a Sepia checkpoint or run directory or of a Hugging Face folder.
// Throws UserError.
void ReadModelSourceConfig(const std::string& path, config::ModelConfig* model);

// The id of each text, which must be a single token of the tokenizer.json at `tokenizer`. Throws
// UserError naming the text that is not.
std::vector<int32_t> SeparatorIds(const std::string& tokenizer,
                                  const std::vector<std::string>& texts);

}  // namespace sepia::trainer
