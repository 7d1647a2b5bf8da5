// Sepia's own fp32 matrix product: operands packed in blocks that fit the caches, register tiles of
// isa/tile_product.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/isa/per_isa.h"

namespace sepia::kernels::cpu {

// Sums are made this many terms at a time.
inline constexpr int64_t kPackedDepth = 256;

// Floats of workspace for an m-row product on any instruction set: the rows of a, padded to whole
// register tiles (at most 12 rows), one panel of b (at most 32 columns) and one tile of c.
constexpr int64_t PackedWorkspaceFloats(int64_t m) {
  return (m + 12) * kPackedDepth + 32 * kPackedDepth + 12 * 32;
}

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(
    // product.dtype is f32. Sums run over k in order, fused: the same bits on every instruction
    // set but at the edges of c.
    void PackedProduct(const TileProduct& product, float* workspace);)
