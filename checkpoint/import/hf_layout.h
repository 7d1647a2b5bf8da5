// The tensors of a GPT-NeoX model under Hugging Face names: what a folder must hold, no more, no
// less. Linear weights are [out, in], row-major; Sepia keeps the same layout.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/shape.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

inline constexpr std::string_view kHfPrefix = "gpt_neox.";
inline constexpr std::string_view kHfHead = "embed_out.weight";
inline constexpr std::string_view kHfEmbedding = "gpt_neox.embed_in.weight";

struct HfTensor {
  std::string name;
  Shape shape;
};

// Larger than any model, and small enough that tables and products stay harmless.
inline constexpr int64_t kMaxWidth = 1 << 20;  // hidden size, heads; 16 times that for the MLP
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxRows = 1 << 27;  // vocabulary, positions

// Whether every size is set, positive and within the limits above.
bool HasPlausibleSizes(const config::ModelConfig& config);

// Sorted by name; the sizes are plausible. A tied model has no embed_out.weight.
std::vector<HfTensor> HfTensors(const config::ModelConfig& config);

// Whether tensor-parallel ranks cut this weight along its columns (Megatron's row-parallel layers);
// the other matrices are cut along their rows.
bool IsCutAlongColumns(std::string_view name);

// Buffers that old versions of transformers stored among the parameters: causal masks, rotary
// frequencies. Matched by exact suffix: "attention.dense.bias" is a parameter.
bool IsHfBuffer(std::string_view name);

}  // namespace sepia::checkpoint
