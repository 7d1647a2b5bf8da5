// Numbers about one tensor of a source, and about two sources beside each other.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

struct TensorStatistics {
  double min = 0;  // of the finite values; 0 when there are none
  double max = 0;
  double rms = 0;
  int64_t nans = 0;
  int64_t infinities = 0;
};

TensorStatistics ComputeStatistics(const ModelSource& source, const SourceTensor& tensor,
                                   Role role);

// How far two equally long rows of fp32 are apart.
struct Difference {
  int64_t elements = 0;  // that differ in any bit
  // Largest number of fp32 steps between two of them; INT64_MAX where exactly one is NaN.
  int64_t max_ulp = 0;
  double max_absolute = 0;  // of finite pairs
};

// Adds the comparison of `a` with `b` to `difference`.
void Compare(std::span<const float> a, std::span<const float> b, Difference* difference);

struct TensorDifference {
  std::string name;
  Role role = Role::kMaster;
  std::string reason;  // "only in A", "shape ..."; empty when values differ
  Difference values;
};

// Tensors that differ. Moments are compared where both sources have them.
std::vector<TensorDifference> CompareSources(const ModelSource& a, const ModelSource& b);

}  // namespace sepia::checkpoint
