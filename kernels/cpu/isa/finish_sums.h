// The end of a matrix product: fp32 sums into the result.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/isa/per_isa.h"

namespace sepia::kernels::cpu {

// out = sums (+ out) (+ bias), rounded once. Rows are `..._stride` elements apart.
struct FinishedSums {
  int64_t rows, cols;
  const float* sums;
  int64_t sum_stride;
  const void* bias;  // [cols], or null
  DType bias_dtype;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  bool accumulate;
};

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(void FinishSums(const FinishedSums& args);)
