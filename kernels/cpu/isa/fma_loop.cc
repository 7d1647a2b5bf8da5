#include "kernels/cpu/isa/fma_loop.h"

#include "kernels/cpu/isa/tile_product.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

int64_t FmaLoop(int64_t rounds, const float* random, float* sink) {
  // Enough chains to cover the latency of two FMA units; with three operands 15 of 16 registers.
  constexpr int kChains = 12;
  // The product of the two factors is about -1: every chain keeps moving between four values with
  // all mantissa bits in use, as it would not if it converged.
  const Vec factor = Load(random);
  const Vec inverse = Set(-0.999999f) / factor;
  const Vec term = Load(random + kLanes);
  Vec chain[kChains];
  SEPIA_UNROLL
  for (int i = 0; i < kChains; ++i) {
    chain[i] = Load(random + 2 * kLanes) * Set(1.0f + 0.01f * static_cast<float>(i));
  }
  for (int64_t round = 0; round < rounds; ++round) {
    SEPIA_UNROLL
    for (int i = 0; i < kChains; ++i) chain[i] = Fma(chain[i], factor, term);
    SEPIA_UNROLL
    for (int i = 0; i < kChains; ++i) chain[i] = Fma(chain[i], inverse, term);
  }
  Vec sum = Zero();
  SEPIA_UNROLL
  for (int i = 0; i < kChains; ++i) sum = sum + chain[i];
  *sink = Sum(sum);
  return rounds * kChains * kLanes * 4;
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
