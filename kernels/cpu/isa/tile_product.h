// The inner product of the attention and own GEMM kernels: a block of sums, held in registers, of
// broadcast factors times vectors. For the files of this folder only.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa/vec.h"

#if defined(__clang__)
#define SEPIA_UNROLL _Pragma("clang loop unroll(full)")
#define SEPIA_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define SEPIA_UNROLL _Pragma("GCC unroll 16")
#define SEPIA_UNROLL_4 _Pragma("GCC unroll 4")
#endif

namespace sepia::kernels::cpu::SEPIA_ISA {

// Rows of a block of two vectors: as many accumulators as fit beside their operands into 32
// (avx512) or 16 (avx2) registers.
inline constexpr int kTileRows = kLanes == 16 ? 12 : 6;
inline constexpr int kPanelWidth = 2 * kLanes;

// Where the vectors of b are: vector v of step s at b + s * step + v * vector.
struct VectorStrides {
  int64_t step, vector;
};

struct FusedMultiplyAdd {
  Vec operator()(Vec factor, Vec column, Vec sum) const { return Fma(factor, column, sum); }
};

// sum[r][v] = start(r, v) + sum over s < steps of a[r * kRowStride + s * kStepStride] *
// b[s, v][...] for r < kRows, v < kVecs, in order of s, every product fused (or as `Multiply`
// says); then finish(r, sum[r]).
template <int kRows, int kVecs, int kRowStride, int kStepStride,
          typename Multiply = FusedMultiplyAdd, typename Start, typename Finish>
inline void MultiplyBlock(int64_t steps, const float* a, const float* b,
                          const VectorStrides& strides, const Start& start, const Finish& finish) {
  Vec sum[kRows][kVecs];
  SEPIA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SEPIA_UNROLL
    for (int v = 0; v < kVecs; ++v) sum[r][v] = start(r, v);
  }
  SEPIA_UNROLL_4
  for (int64_t s = 0; s < steps; ++s) {
    Vec column[kVecs];
    SEPIA_UNROLL
    for (int v = 0; v < kVecs; ++v) column[v] = Load(b + v * strides.vector);
    SEPIA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec factor = Set(a[r * kRowStride]);
      SEPIA_UNROLL
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Multiply()(factor, column[v], sum[r][v]);
    }
    a += kStepStride;
    b += strides.step;
  }
  SEPIA_UNROLL
  for (int r = 0; r < kRows; ++r) finish(r, sum[r]);
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
