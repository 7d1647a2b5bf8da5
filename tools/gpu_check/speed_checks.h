// How fast attention is on the device.
#pragma once

#include <vector>

#include "tools/gpu_check/side_by_side.h"

namespace sepia::tools::gpu_check {

struct SpeedSizes {
  std::vector<int64_t> seqs;  // of one layer of attention
  int64_t tokens;             // of that layer's batch
  int64_t heads;
  int repetitions;
};

// Milliseconds by events, the median of the repetitions; on the emulated device they say nothing.
// Sep-Attention (window 64, one token in six a separator), the same kernel dense, and cuDNN.
std::vector<Finding> MeasureAttention(const SpeedSizes& sizes);

}  // namespace sepia::tools::gpu_check
