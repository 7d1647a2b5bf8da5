// LayerNorm of one row and its gradient (formulas: kernels/layer_norm.h).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/isa/per_isa.h"

namespace sepia::kernels::cpu {

// y = (x - mean) rstd gamma + beta: `size` elements of `dtype`.
struct NormRow {
  DType dtype;
  int64_t size;
  const void* x;
  const void* gamma;
  const void* beta;
  void* y;
  float* mean;
  float* rstd;
  float eps;
};

// dx = or += the gradient of x, rounded once; dgamma and dbeta += this row's.
struct NormGradientRow {
  DType dtype;
  int64_t size;
  const void* x;
  const void* gamma;
  const void* dy;
  void* dx;
  float* dgamma;
  float* dbeta;
  float mean;
  float rstd;
  bool accumulate;
};

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(void Normalize(const NormRow& row);  //
              void NormGradient(const NormGradientRow& row);)
