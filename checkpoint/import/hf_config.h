// config.json of a Hugging Face GPT-NeoX folder, in the spellings of transformers 4 and 5.
#pragma once

#include <string>

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

// Fills the architecture: sizes, rotary, activation, residual form, tied head, and the attention
// kind where the folder was written by Sepia ("sepllm"). Every value is checked; what Sepia cannot
// compute is refused. Throws BadData naming the file and the key.
void ReadHfConfig(const std::string& path, config::ModelConfig* config);

}  // namespace sepia::checkpoint
