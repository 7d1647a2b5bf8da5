// How fast attention is on the device.
#pragma once

#include <string>
#include <vector>

#include "tools/gpu_check/side_by_side.h"

namespace sepia::tools::gpu_check {

struct SpeedSizes {
  std::vector<int64_t> seqs;  // of one layer of attention
  int64_t tokens;             // of that layer's batch
  int64_t heads;
  int repetitions;
};

// The model and batch of a training step, in the grammar of --set.
using StepSettings = std::vector<std::string>;

// Whole steps in bf16, with one token in six a separator and dense, own kernels and cuDNN: the
// median, after two that warm up and must lower the loss.
std::vector<Finding> MeasureTrainingStep(const StepSettings& settings, int repetitions);

// Milliseconds by events, the median of the repetitions; on the emulated device they say nothing.
// Sep-Attention (window 64, one token in six a separator), the same kernel dense, and cuDNN.
std::vector<Finding> MeasureAttention(const SpeedSizes& sizes);

}  // namespace sepia::tools::gpu_check
