// Products of storage types that the backend does not multiply: fp32 copies of the operands, a
// block of k at a time, then fp32 products.
#pragma once

#include "kernels/cpu/gemm_tile.h"

namespace sepia::kernels::cpu {

// Calls multiply_f32 once a block of k, with dtype f32; the first call may overwrite, the others
// accumulate.
void MultiplyWidened(const TileProduct& product, void (*multiply_f32)(const TileProduct&));

}  // namespace sepia::kernels::cpu
