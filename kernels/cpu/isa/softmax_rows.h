// Softmax of one row of logits for the loss: log-sum-exp and gradient.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/isa/per_isa.h"

namespace sepia::kernels::cpu {

// Largest logit, and the sum of exp(logit - max) over the row; the sum is NaN if any logit is.
struct ExpSum {
  float max;
  double sum;
};

// out[i] = scale (exp(logits[i] - max) / sum - (i == target)), rounded to out's dtype. out may be
// the memory of logits.
struct SoftmaxGradient {
  const float* logits;
  int64_t size;
  ExpSum row;
  int64_t target;
  float scale;
  DType out_dtype;
  void* out;
};

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(
    // size >= 1.
    ExpSum SumOfExps(const float* logits, int64_t size);
    void WriteSoftmaxGradient(const SoftmaxGradient& args);)
