// The inner product of the attention kernels: a block of kTileRows rows, held in registers, times
// one or two vectors of columns. For the files of this folder only.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa/vec.h"

#if defined(__clang__)
#define SEPIA_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SEPIA_UNROLL _Pragma("GCC unroll 16")
#endif

namespace sepia::kernels::cpu::SEPIA_ISA {

// Rows of a block: as many accumulators of two vectors as fit beside their operands into 32
// (avx512) or 16 (avx2) registers.
inline constexpr int kTileRows = kLanes == 16 ? 12 : 6;
// Keys of one transposed panel: the two vectors of a block.
inline constexpr int kPanelWidth = 2 * kLanes;

enum class TileMode { kOverwrite, kAdd };

// c[r][0 .. kVecs * kLanes) (+)= sum over s < steps of a[r * kRowStride + s * kStepStride] *
// b[s][...] for r < kTileRows, in order of s, every product fused.
template <TileMode kMode, int kVecs, int kRowStride, int kStepStride>
inline void MultiplyBlock(int64_t steps, const float* a, const float* b, int64_t b_stride, float* c,
                          int64_t c_stride) {
  Vec sum[kTileRows][kVecs];
  SEPIA_UNROLL
  for (int r = 0; r < kTileRows; ++r) {
    SEPIA_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      sum[r][v] = kMode == TileMode::kAdd ? Load(c + r * c_stride + v * kLanes) : Zero();
    }
  }
  for (int64_t s = 0; s < steps; ++s) {
    Vec column[kVecs];
    SEPIA_UNROLL
    for (int v = 0; v < kVecs; ++v) column[v] = Load(b + v * kLanes);
    SEPIA_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      const Vec factor = Set(a[r * kRowStride]);
      SEPIA_UNROLL
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Fma(factor, column[v], sum[r][v]);
    }
    a += kStepStride;
    b += b_stride;
  }
  SEPIA_UNROLL
  for (int r = 0; r < kTileRows; ++r) {
    SEPIA_UNROLL
    for (int v = 0; v < kVecs; ++v) Store(c + r * c_stride + v * kLanes, sum[r][v]);
  }
}

// The same over `columns` columns (a multiple of kLanes) of row-major b and c of that many columns,
// added to c.
template <int kRowStride, int kStepStride>
inline void AddProduct(int64_t steps, const float* a, const float* b, int64_t columns, float* c) {
  int64_t col = 0;
  for (; col + kPanelWidth <= columns; col += kPanelWidth) {
    MultiplyBlock<TileMode::kAdd, 2, kRowStride, kStepStride>(steps, a, b + col, columns, c + col,
                                                              columns);
  }
  if (col < columns) {
    MultiplyBlock<TileMode::kAdd, 1, kRowStride, kStepStride>(steps, a, b + col, columns, c + col,
                                                              columns);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
