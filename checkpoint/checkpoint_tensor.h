// What a checkpoint holds for each parameter.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "base/named_tensor.h"
#include "checkpoint/rectangle.h"

namespace sepia::checkpoint {

enum class Role : uint8_t {
  kMaster,    // fp32 weights that the optimizer updates
  kExpAvg,    // Adam's first moment, fp32
  kExpAvgSq,  // Adam's second moment, fp32
  kWeight,    // weights only, in any floating dtype, where no master exists
};

// "weight" (kMaster and kWeight), "exp_avg", "exp_avg_sq".
std::string_view RoleName(Role role);

// Elements `part` of a tensor, and where they go when they are read.
struct PartTarget {
  Rectangle part;
  TensorView out;  // of the shape part.extent
};

// One rectangle of one tensor to be saved.
struct CheckpointTensor {
  NamedTensor tensor;
  Role role = Role::kMaster;
  // Supplies the data when `tensor.view` has none (device memory, a file being converted): fills
  // `out` with the elements `part` of the global tensor.
  std::function<void(const Rectangle& part, TensorView out)> read;
};

}  // namespace sepia::checkpoint
