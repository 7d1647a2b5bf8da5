#include "kernels/cpu/gemm_own.h"

#include <vector>

#include "kernels/cpu/isa/packed_product.h"
#include "kernels/cpu/widened_product.h"

namespace sepia::kernels::cpu {
namespace {

void MultiplyF32(const TileProduct& product) {
  static thread_local std::vector<float> workspace;
  const auto needed = static_cast<size_t>(PackedWorkspaceFloats(product.m));
  if (workspace.size() < needed) workspace.resize(needed);
  SEPIA_BY_ISA(PackedProduct)(product, workspace.data());
}

}  // namespace

void MultiplyTileOwn(const TileProduct& product) {
  if (product.dtype == DType::kFloat32) return MultiplyF32(product);
  MultiplyWidened(product, MultiplyF32);
}

}  // namespace sepia::kernels::cpu
