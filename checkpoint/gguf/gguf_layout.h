// The tensors of a GPT-NeoX model in GGUF, architecture "gptneox".
// Source: llama.cpp convert_hf_to_gguf.py (GPTNeoXModel) and src/models/gptneox.cpp.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/rectangle.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

// "gpt_neox.layers.3.attention.dense.bias" -> "blk.3.attn_output.bias". CHECK-fails for a name that
// no model has.
std::string GgufName(const std::string& hf_name);

// The tensor as rectangles of its Hugging Face form, in the order in which their rows follow each
// other in GGUF, of at most `max_elements` elements where the order allows. query_key_value keeps
// q, k and v of a head together; GGUF has all q, then all k, then all v.
std::vector<Rectangle> GgufOrder(const std::string& hf_name, const Shape& shape,
                                 const config::ModelConfig& config, int64_t max_elements);

}  // namespace sepia::checkpoint
