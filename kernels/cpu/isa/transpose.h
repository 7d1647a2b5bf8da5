// Transposition of fp32 blocks. For the files of this folder only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace sepia::kernels::cpu::SEPIA_ISA {

// to[c * to_stride + r] = from[r * from_stride + c] for r, c < 8.
inline void Transpose8x8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  __m256 row[8];
  for (int r = 0; r < 4; ++r) {
    // Row r beside row r + 4, so that every further step stays within 128-bit lanes.
    const float* low = from + r * from_stride;
    const float* high = from + (r + 4) * from_stride;
    row[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
    row[r + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)),
                                      _mm_loadu_ps(high + 4), 1);
  }
  for (int half = 0; half < 2; ++half) {
    const __m256* x = row + 4 * half;
    const __m256 low01 = _mm256_unpacklo_ps(x[0], x[1]);
    const __m256 high01 = _mm256_unpackhi_ps(x[0], x[1]);
    const __m256 low23 = _mm256_unpacklo_ps(x[2], x[3]);
    const __m256 high23 = _mm256_unpackhi_ps(x[2], x[3]);
    float* out = to + 4 * half * to_stride;
    _mm256_storeu_ps(out, _mm256_shuffle_ps(low01, low23, 0x44));
    _mm256_storeu_ps(out + to_stride, _mm256_shuffle_ps(low01, low23, 0xee));
    _mm256_storeu_ps(out + 2 * to_stride, _mm256_shuffle_ps(high01, high23, 0x44));
    _mm256_storeu_ps(out + 3 * to_stride, _mm256_shuffle_ps(high01, high23, 0xee));
  }
}

#if defined(__AVX512F__)
// The same for r, c < 16.
inline void Transpose16x16(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  constexpr __mmask16 kAll32 = 0xffff;
  constexpr __mmask8 kAll64 = 0xff;
  __m512 r[16];
  __m512d t[16];
  // Row r of a 128-bit lane beside rows r + 4, r + 8, r + 12: every further step stays within
  // lanes.
  for (int i = 0; i < 16; ++i) {
    const int block = i / 4 * 4;  // columns block ... block + 3 of rows i % 4 + 0, 4, 8, 12
    const float* row = from + i % 4 * from_stride + block;
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(row));
    x = _mm512_maskz_insertf32x4(kAll32, x, _mm_loadu_ps(row + 4 * from_stride), 1);
    x = _mm512_maskz_insertf32x4(kAll32, x, _mm_loadu_ps(row + 8 * from_stride), 2);
    r[i] = _mm512_maskz_insertf32x4(kAll32, x, _mm_loadu_ps(row + 12 * from_stride), 3);
  }
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(kAll32, r[i], r[i + 1]));
    t[i + 1] = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(kAll32, r[i], r[i + 1]));
  }
  for (int i = 0; i < 16; i += 4) {
    float* out = to + i * to_stride;
    const auto store = [&](int64_t c, __m512d x) {
      _mm512_storeu_ps(out + c * to_stride, _mm512_castpd_ps(x));
    };
    store(0, _mm512_maskz_unpacklo_pd(kAll64, t[i], t[i + 2]));
    store(1, _mm512_maskz_unpackhi_pd(kAll64, t[i], t[i + 2]));
    store(2, _mm512_maskz_unpacklo_pd(kAll64, t[i + 1], t[i + 3]));
    store(3, _mm512_maskz_unpackhi_pd(kAll64, t[i + 1], t[i + 3]));
  }
}
#endif

// to [columns, to_stride] from the first `rows` rows of from [., columns]; both multiples of 8.
inline void Transpose(const float* from, int64_t rows, int64_t columns, float* to,
                      int64_t to_stride) {
#if defined(__AVX512F__)
  if (rows % 16 == 0 && columns % 16 == 0) {
    for (int64_t c = 0; c < columns; c += 16) {
      for (int64_t r = 0; r < rows; r += 16) {
        Transpose16x16(from + r * columns + c, columns, to + c * to_stride + r, to_stride);
      }
    }
    return;
  }
#endif
  for (int64_t c = 0; c < columns; c += 8) {
    for (int64_t r = 0; r < rows; r += 8) {
      Transpose8x8(from + r * columns + c, columns, to + c * to_stride + r, to_stride);
    }
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
