// A tile unit in plain C++ with the arithmetic of TDPBF16PS (Intel SDM): even and odd elements of
// the pairs are summed by two chains of fused multiply-adds from zero, then added to C; every
// result is rounded to nearest, denormals count as zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <immintrin.h>

namespace sepia::kernels::cpu::amx::emulated {

inline constexpr int kTileRows = 16;

struct TileRegister {
  uint32_t words[kTileRows][16];
};
inline thread_local TileRegister tile_registers[8];

// Denormals are flushed by the vector unit's control register.
class TileScope {
 public:
  TileScope() : control_(_mm_getcsr()) { _mm_setcsr(control_ | 0x8040); }
  ~TileScope() { _mm_setcsr(control_); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  unsigned int control_;
};

template <int kTile>
inline void TileZero() {
  std::memset(&tile_registers[kTile], 0, sizeof(TileRegister));
}

template <int kTile>
inline void TileLoad(const void* from) {
  std::memcpy(&tile_registers[kTile], from, sizeof(TileRegister));
}

// Every row becomes the 64 bytes at `row`.
template <int kTile>
inline void TileBroadcast(const void* row) {
  for (auto& words : tile_registers[kTile].words) std::memcpy(words, row, sizeof(words));
}

template <int kTile>
inline void TileStore(void* to) {
  std::memcpy(to, &tile_registers[kTile], sizeof(TileRegister));
}

inline __m512 EvenElements(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, pairs, 16));
}
inline __m512 OddElements(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
}

template <int kC, int kA, int kB>
inline void TileMultiply() {
  for (int row = 0; row < kTileRows; ++row) {
    __m512 even = _mm512_setzero_ps();
    __m512 odd = _mm512_setzero_ps();
    for (int k = 0; k < kTileRows; ++k) {
      const auto pair = static_cast<int>(tile_registers[kA].words[row][k]);
      const __m512i a = _mm512_set1_epi32(pair);
      const __m512i b = _mm512_loadu_si512(tile_registers[kB].words[k]);
      even = _mm512_fmadd_ps(EvenElements(a), EvenElements(b), even);
      odd = _mm512_fmadd_ps(OddElements(a), OddElements(b), odd);
    }
    uint32_t* c = tile_registers[kC].words[row];
    const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(c), _mm512_add_ps(even, odd));
    _mm512_storeu_ps(c, sum);
  }
}

inline __m512i RoundedBits(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i high = _mm512_maskz_srli_epi32(0xffff, bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_maskz_srli_epi32(0xffff, _mm512_add_epi32(bits, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
}

// 32 numbers rounded to bf16: `low` in lanes 0-15, `high` in lanes 16-31.
inline __m512i RoundPair(__m512 low, __m512 high) {
  const __m256i a = _mm512_maskz_cvtepi32_epi16(0xffff, RoundedBits(low));
  const __m256i b = _mm512_maskz_cvtepi32_epi16(0xffff, RoundedBits(high));
  const __m512i half = _mm512_maskz_inserti64x4(0xff, _mm512_setzero_si512(), a, 0);
  return _mm512_maskz_inserti64x4(0xff, half, b, 1);
}

}  // namespace sepia::kernels::cpu::amx::emulated
