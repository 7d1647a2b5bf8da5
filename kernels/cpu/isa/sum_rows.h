// Sums of rows, element by element, in fp32.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/isa/per_isa.h"

namespace sepia::kernels::cpu {

// y = a + b + c + d, in that order and rounded once: `size` elements of `dtype`. c and d may be
// null; y may be the memory of a or b.
struct RowSum {
  DType dtype;
  int64_t size;
  const void* a;
  const void* b;
  const void* c;
  const void* d;
  void* y;
};

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(void SumRows(const RowSum& sum);
              // sums += x, widened.
              void AddToSums(DType dtype, const void* x, int64_t size, float* sums);)
