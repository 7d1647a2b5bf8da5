// Sepia's own products: the backend where oneDNN is absent; always built, so that it is tested
// everywhere.
#pragma once

#include "kernels/cpu/gemm_tile.h"

namespace sepia::kernels::cpu {

// As MultiplyTile.
void MultiplyTileOwn(const TileProduct& product);

}  // namespace sepia::kernels::cpu
