// Vector code around the tile products, for the files of this folder only.
#pragma once

#include <cstdint>
#include <cstring>

#include <immintrin.h>

#include "kernels/cpu/amx/task.h"
#include "kernels/cpu/amx/tiles.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

inline int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// 2^floor(y) * p(y - floor(y)) with p of degree 3: relative error 1e-4, where rounding to bf16
// costs 2e-3. 0 for -inf, inf for inf and beyond the largest float, NaN for NaN.
inline __m512 Exp2(__m512 y) {
  const __m512 fraction = _mm512_maskz_reduce_ps(0xffff, y, _MM_FROUND_TO_NEG_INF);
  __m512 p = _mm512_set1_ps(0.0780245f);
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.2260671f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.6958335f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.9999253f));
  return _mm512_maskz_scalef_ps(0xffff, p, y);
}

// Elements 0, 2, ... and 1, 3, ... of 32 bf16 numbers, widened.
inline __m512 WidenEven(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, pairs, 16));
}
inline __m512 WidenOdd(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
}

// Bits [low, high) of 32, both clamped.
inline uint32_t BitRange(int64_t low, int64_t high) {
  const int64_t begin = Smaller(Larger(low, 0), 32);
  const int64_t end = Smaller(Larger(high, begin), 32);
  return static_cast<uint32_t>(((uint64_t{1} << end) - 1) & ~((uint64_t{1} << begin) - 1));
}

// 16 x 16 transposition of 32-bit words.
inline void Transpose(__m512i r[16]) {
  constexpr __mmask16 kAll32 = 0xffff;
  constexpr __mmask8 kAll64 = 0xff;
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_maskz_unpacklo_epi32(kAll32, r[i], r[i + 1]);
    t[i + 1] = _mm512_maskz_unpackhi_epi32(kAll32, r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_maskz_unpacklo_epi64(kAll64, t[i], t[i + 2]);
    r[i + 1] = _mm512_maskz_unpackhi_epi64(kAll64, t[i], t[i + 2]);
    r[i + 2] = _mm512_maskz_unpacklo_epi64(kAll64, t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_maskz_unpackhi_epi64(kAll64, t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_maskz_shuffle_i32x4(kAll32, r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_maskz_shuffle_i32x4(kAll32, r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_maskz_shuffle_i32x4(kAll32, r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_maskz_shuffle_i32x4(kAll32, r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_maskz_shuffle_i32x4(kAll32, t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_maskz_shuffle_i32x4(kAll32, t[i], t[i + 8], 0xdd);
  }
}

// Lane i of the result is the sum of the lanes of rows[i].
inline __m512 SumsOfRows(const __m512 rows[16]) {
  __m512i words[16];
  for (int i = 0; i < 16; ++i) words[i] = _mm512_castps_si512(rows[i]);
  Transpose(words);
  __m512 sum = _mm512_castsi512_ps(words[0]);
  for (int i = 1; i < 16; ++i) sum = _mm512_add_ps(sum, _mm512_castsi512_ps(words[i]));
  return sum;
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
