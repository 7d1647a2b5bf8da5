// The backend of builds without oneDNN: Sepia's own products for every dtype.
#include <algorithm>

#include <fmt/core.h>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/gemm_own.h"
#include "kernels/cpu/gemm_tile.h"

namespace sepia::kernels::cpu {

void MultiplyTile(const TileProduct& product) { MultiplyTileOwn(product); }

std::string TileBackendName(DType dtype) {
  return fmt::format("own {}{}", IsaName(std::min(ActiveIsa(), Isa::kAvx512)),
                     dtype == DType::kFloat32 ? "" : ", widened to f32");
}

}  // namespace sepia::kernels::cpu
