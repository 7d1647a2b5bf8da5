// Where GPT-NeoX keeps each tensor and how its tensor-parallel ranks' parts become one.
// Source: EleutherAI/gpt-neox tools/ckpts/convert_neox_to_hf.py, megatron/model/transformer.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/shape.h"
#include "checkpoint/rectangle.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

enum class TensorMerge : uint8_t {
  kRows,     // cut along dimension 0
  kColumns,  // cut along dimension 1
  kMean,     // every rank has a replica
  // Every rank adds its own bias before the one reduction, so the model's bias is their sum; all
  // get the same gradient, so moments are replicas.
  kSumOfWeights,
};

struct NeoxTensor {
  std::string hf_name;
  int layer = 0;                // of the file; block i is i + 2
  std::string key;              // within the file
  std::string alternative_key;  // of newer versions, or ""
  Shape shape;                  // of the whole model
  TensorMerge merge = TensorMerge::kMean;

  // "2.attention.dense.bias", as optimizer files spell it.
  std::string QualifiedName() const { return std::to_string(layer) + "." + key; }
};

// In the order of the layers; vocab_size is set. With the parallel residual, biases behind the
// reduction are summed, otherwise they are replicas.
std::vector<NeoxTensor> NeoxTensors(const config::ModelConfig& model);

// Rank `rank`'s part of a tensor, in global coordinates; `ranks` divides the cut dimension.
Rectangle NeoxPart(const NeoxTensor& tensor, int rank, int ranks);

}  // namespace sepia::checkpoint
