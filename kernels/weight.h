// A matrix of the model as matrix products see it.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace sepia::kernels {

// `canonical` is the local shard [out, in], row-major, in the compute dtype: the only form that
// sharding, the optimizer and checkpoints know. `packed` is a slot that kernels/linear owns: a
// reordered copy keyed by `version` (empty until somebody packs). Whoever writes `canonical`
// increments `version`.
struct Weight {
  ConstTensorView canonical;
  uint64_t version = 0;
  mutable TensorView packed = {};
  mutable uint64_t packed_version = 0;
};

}  // namespace sepia::kernels
