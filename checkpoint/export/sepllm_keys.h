// The attention settings of a config.json of model_type "sepllm_gpt_neox", as the SepLLM authors'
// converter writes them: HKUDS/SepLLM, Training-SepLLM/tools/ckpts/convert_neox_to_hf.py.
// neox/neox_config.h reads them.
#pragma once

#include <string>

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

// One JSON object. Throws UserError(kUsage) for settings that these keys cannot say: fixed strides,
// initial tokens that differ between layers.
std::string MakeSepllmKeys(const config::ModelConfig& config);

}  // namespace sepia::checkpoint
