// Sums over rows (gradients of biases, gamma, beta) as two deterministic steps: each block of
// kRowBlock rows sums into its own partial row, then partial rows are added in order.
#pragma once

#include <cstdint>

#include "base/arena.h"
#include "base/integer.h"
#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels::cpu {

inline constexpr int64_t kRowBlock = 64;

inline int64_t NumRowBlocks(int64_t m) { return CeilDiv(m, kRowBlock); }

// Scratch for the partial rows of one [m, c].
inline int64_t ColumnPartialBytes(int64_t m, int64_t c) {
  return NumRowBlocks(m) * c * static_cast<int64_t>(sizeof(float)) + Arena::kAlignment;
}

// The second step: out (+)= sum of the rows of partials [NumRowBlocks(m), c].
void SumPartials(const Context& ctx, const ConstTensorView& partials, const TensorView& out,
                 GradMode mode);

// out [c] fp32 (+)= column sums of x [m, c] in f32, bf16 or f16.
void ColumnSums(Context& ctx, const ConstTensorView& x, const TensorView& out, GradMode mode);

}  // namespace sepia::kernels::cpu
