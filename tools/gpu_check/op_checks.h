// Every op of kernels/*.h on the device against the cpu backend, and twice on the device.
#pragma once

#include <vector>

#include "tools/gpu_check/side_by_side.h"

namespace sepia::tools::gpu_check {

// Sizes of the checks: a pocket model's on the emulated device, a small Pythia's on a GPU.
struct CheckSizes {
  int64_t batch, seq, heads, vocabulary;
};

std::vector<Finding> CheckOps(const CheckSizes& sizes);
std::vector<Finding> CheckDeterminism(const CheckSizes& sizes);

}  // namespace sepia::tools::gpu_check
