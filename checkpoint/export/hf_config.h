// config.json for a Hugging Face folder.
#pragma once

#include <cstdint>
#include <string>

#include "base/dtype.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

// Whose class reads the folder.
enum class HfFlavor : uint8_t {
  kGptNeox,        // transformers' GPTNeoXForCausalLM
  kSepllmGptNeox,  // the SepLLM authors' SepLLMGPTNeoXForCausalLM, which applies the sparse masks
};

// Every key that transformers 4 and 5 read, in both spellings: the defaults of that class are
// GPT-NeoX-20B's. Sparse attention, which transformers does not compute, is recorded in an object
// "sepllm" that import/hf_config.h reads back; for kSepllmGptNeox in the authors' own keys.
std::string MakeHfConfig(const config::ModelConfig& config, DType dtype, HfFlavor flavor);

// Whether any layer is not dense causal attention.
bool HasSparseAttention(const config::ModelConfig& config);

// The part of `config` that a Hugging Face folder keeps: architecture and attention, without
// preset and initial values.
void KeepHfFields(config::ModelConfig* config);

}  // namespace sepia::checkpoint
