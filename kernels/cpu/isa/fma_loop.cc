#include "kernels/cpu/isa/fma_loop.h"

#include "kernels/cpu/isa/tile_product.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

int64_t FmaLoop(int64_t rounds, float* sink) {
  // Enough chains to cover the latency of two FMA units, few enough for 16 registers.
  constexpr int kChains = 12;
  const Vec factor = Set(0.999f);
  const Vec term = Set(1e-6f);
  Vec chain[kChains];
  SEPIA_UNROLL
  for (int i = 0; i < kChains; ++i) chain[i] = Set(1e-3f * static_cast<float>(i + 1));
  for (int64_t round = 0; round < rounds; ++round) {
    SEPIA_UNROLL
    for (int i = 0; i < kChains; ++i) chain[i] = Fma(chain[i], factor, term);
  }
  Vec sum = Zero();
  SEPIA_UNROLL
  for (int i = 0; i < kChains; ++i) sum = sum + chain[i];
  *sink = Sum(sum);
  return rounds * kChains * kLanes * 2;
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
