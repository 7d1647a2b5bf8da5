// Operands of two bf16 numbers a cell, for vdpbf16ps. Included through attention_operands.h only.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/isa/tile_product.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

inline constexpr int kPair = 2;
using Number = BFloat16;

// sum + both products of the pairs. Takes subnormals as zero.
struct Multiply {
  Vec operator()(Vec factor, Vec column, Vec sum) const {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)factor.v, (__m512bh)column.v)};
  }
};

// `count` elements, which are bf16 already.
inline void LoadNumbers(DType, const void* from, int64_t count, Number* to) {
  std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(count) * 2);
}
inline void StoreNumbers(Number* to, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x.v));
}
inline float ToFloat(Number x) {
  uint16_t number = 0;
  std::memcpy(&number, &x, sizeof(number));
  const uint32_t bits = uint32_t{number} << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
// Number `odd` (0 or 1) of every cell.
inline Vec NumbersOf(Vec cells, int64_t odd) {
  const __m512i words = _mm512_castps_si512(cells.v);
  if (odd == 0) return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, words, 16))};
  return {_mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-65536)))};
}
// Even numbers in the low halves, odd ones in the high halves.
inline Vec Interleave(__m256i even, __m256i odd) {
  const __m512i low = _mm512_maskz_cvtepu16_epi32(0xffff, even);
  const __m512i high = _mm512_castps_si512(WidenBFloat16(odd));
  return {_mm512_castsi512_ps(_mm512_or_si512(low, high))};
}
// Numbers of an even and the following odd row, rounded.
inline Vec PairCells(Vec even, Vec odd) {
  return Interleave((__m256i)_mm512_cvtneps_pbh(even.v), (__m256i)_mm512_cvtneps_pbh(odd.v));
}

// Where rows are loaded that end up paired in `paired`.
inline float* RowsToPair(float* /*paired*/, float* scratch) { return scratch; }
// paired [count / 2, dim] cells from rows [count, dim] of numbers; count is even.
inline void PairRows(const float* rows, int64_t count, int64_t dim, float* paired) {
  const auto* numbers = reinterpret_cast<const __m256i*>(rows);
  const int64_t stride = dim / kLanes;
  for (int64_t i = 0; i < count / 2; ++i) {
    const __m256i* even = numbers + 2 * i * stride;
    for (int64_t v = 0; v < stride; ++v) {
      Store(paired + i * dim + v * kLanes,
            Interleave(_mm256_loadu_si256(even + v), _mm256_loadu_si256(even + stride + v)));
    }
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
