// Masters of bf16 weights as kernels/optimizer_state.h holds them: rows of them, joined and split.
#pragma once

#include <bit>
#include <cstdint>

#include "base/dtype.h"

namespace sepia::kernels::cpu {

inline constexpr uint32_t kSignBit = 0x80000000u;

// `exp_avg_sq`: as held, with the master's bit for a sign.
inline float JoinMaster(BFloat16 weight, int16_t remainder, float exp_avg_sq) {
  const uint32_t upper = weight.bits + (std::bit_cast<uint32_t>(exp_avg_sq) >> 31);
  return std::bit_cast<float>((upper << 16) + static_cast<uint32_t>(int32_t{remainder}));
}
inline int16_t Remainder(float master) {
  return static_cast<int16_t>(std::bit_cast<uint32_t>(master));
}
// The bit of a master in the sign of its second moment: a tie that was rounded down.
inline uint32_t TieBit(float master) {
  return (std::bit_cast<uint32_t>(master) & 0x1ffffu) == 0x8000u ? kSignBit : 0u;
}

inline float PlainSecondMoment(float exp_avg_sq) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(exp_avg_sq) & ~kSignBit);
}
// `plain` is not negative; its sign, a NaN's, is lost.
inline float WithTieBit(float plain, uint32_t tie_bit) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(plain) & ~kSignBit) | tie_bit);
}

inline void JoinMasters(const BFloat16* weight, const int16_t* remainder, const float* exp_avg_sq,
                        int64_t count, float* master) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    master[i] = JoinMaster(weight[i], remainder[i], exp_avg_sq[i]);
  }
}

}  // namespace sepia::kernels::cpu
