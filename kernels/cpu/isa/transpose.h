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

// to [columns, to_stride] from the first `rows` rows of from [., columns]; both multiples of 8.
inline void Transpose(const float* from, int64_t rows, int64_t columns, float* to,
                      int64_t to_stride) {
  for (int64_t c = 0; c < columns; c += 8) {
    for (int64_t r = 0; r < rows; r += 8) {
      Transpose8x8(from + r * columns + c, columns, to + c * to_stride + r, to_stride);
    }
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
