// GeLU of one row and its gradient (formulas: kernels/gelu.h).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/isa/per_isa.h"
#include "kernels/gelu.h"

namespace sepia::kernels::cpu {

// y = gelu(x + bias): `size` elements of `dtype`.
struct GeluRow {
  GeluKind kind;
  DType dtype;
  int64_t size;
  const void* x;
  const void* bias;
  void* y;
};

// dx = dy gelu'(x + bias), rounded to dtype (dx may be the memory of dy); dbias += the same,
// unrounded; y = gelu(x + bias), the same bits as BiasGelu's (y may be the memory of x, or null).
struct GeluGradientRow {
  GeluKind kind;
  DType dtype;
  int64_t size;
  const void* x;
  const void* bias;
  const void* dy;
  void* dx;
  float* dbias;
  void* y = nullptr;
};

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(
    // Both within 12 units in the last place of max(1, |x + bias|).
    void BiasGelu(const GeluRow& row);  //
    void BiasGeluGradient(const GeluGradientRow& row);)
