// A tensor with its place in a model: what checkpoints and exporters see, instead of a model.
#pragma once

#include <string>
#include <vector>

#include "base/tensor.h"

namespace sepia {

struct NamedTensor {
  std::string name;  // Hugging Face name: "gpt_neox.layers.3.attention.query_key_value.weight"
  TensorView view;   // the local part (all of it in a single process)
  // Place of `view` in the global tensor: a rectangle of `view.shape()` at `offset` in `shape`.
  Shape global_shape;
  std::vector<int64_t> offset;  // one per dimension
};

}  // namespace sepia
