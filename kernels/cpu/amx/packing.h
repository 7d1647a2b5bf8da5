// Rows of 32 queries or keys as tiles, D padded with zeros to `steps` times 32. Three forms, each
// of 2 * steps tiles (kernels/cpu/amx/README.md):
//   rows        [row / 16][d / 32] tiles of 16 rows x 32 of D: A of products over D
//   columns     [row / 16][d / 32] tiles of [d / 2][row][2]: B of products over D
//   interleaved [d / 16] tiles of [row / 2][d][2]: B of products over rows
#pragma once

#include "kernels/cpu/amx/products.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

inline int64_t Steps(int64_t head_dim) { return CeilDiv(head_dim, 32); }
// Bytes of 32 rows in any of the forms, and of their gradients in fp32.
inline int64_t FormBytes(int64_t steps) { return 2 * steps * kTileBytes; }
inline int64_t GradientFloats(int64_t steps) { return 4 * steps * kTileFloats; }

// Elements of chunk `step` of 32 that a row of `head_dim` has.
inline __mmask32 ChunkMask(int64_t head_dim, int64_t step) {
  return BitRange(0, head_dim - 32 * step);
}

inline __m512i LoadVector(const std::byte* from) { return _mm512_load_si512(from); }
inline void StoreVector(std::byte* to, __m512i x) { _mm512_store_si512(to, x); }

// Chunk `step` of row `row` in the form `rows`.
inline int64_t RowOffset(int64_t row, int64_t step, int64_t steps) {
  return ((row / 16) * steps + step) * kTileBytes + row % 16 * 64;
}

// Asks for memory that is wanted soon in the L2 cache: rows of one head lie thousands of bytes
// apart, which no hardware prefetcher follows. Assembly, because g++ 12 takes a function that only
// prefetches for one without effect and leaves out calls of it.
inline void Prefetch(const BFloat16* begin, int64_t count) {
  const char* at = reinterpret_cast<const char*>(begin);
  for (int64_t i = 0; i < 2 * count; i += 64) __asm__ volatile("prefetcht1 %0" ::"m"(at[i]));
}

// row_of(i) is row i, or null for zeros. Returns whether all numbers are finite.
template <typename RowOf>
inline bool PackRows(const RowOf& row_of, int64_t head_dim, std::byte* to) {
  constexpr __mmask32 kAll = ~__mmask32{0};
  const int64_t steps = Steps(head_dim);
  __m512i largest = _mm512_setzero_si512();  // of the numbers without their signs, as integers
  for (int64_t i = 0; i < 32; ++i) {
    const BFloat16* row = row_of(i);
    for (int64_t step = 0; step < steps; ++step) {
      const __m512i chunk =
          row == nullptr ? _mm512_setzero_si512()
                         : _mm512_maskz_loadu_epi16(ChunkMask(head_dim, step), row + 32 * step);
      StoreVector(to + RowOffset(i, step, steps), chunk);
      largest =
          _mm512_maskz_max_epu16(kAll, largest, _mm512_and_si512(chunk, _mm512_set1_epi16(0x7fff)));
    }
  }
  return _mm512_cmplt_epu16_mask(largest, _mm512_set1_epi16(0x7f80)) == kAll;
}

inline void TransposeTile(const std::byte* from, std::byte* to) {
  __m512i words[16];
  for (int i = 0; i < 16; ++i) words[i] = LoadVector(from + i * 64);
  Transpose(words);
  for (int i = 0; i < 16; ++i) StoreVector(to + i * 64, words[i]);
}

// rows -> columns.
inline void PackColumns(const std::byte* rows, int64_t steps, std::byte* columns) {
  for (int64_t at = 0; at < FormBytes(steps); at += kTileBytes) {
    TransposeTile(rows + at, columns + at);
  }
}

// rows -> interleaved; pairs of tiles `pair_stride` bytes apart.
inline void PackInterleaved(const std::byte* rows, int64_t steps, std::byte* to,
                            int64_t pair_stride) {
  alignas(64) static constexpr uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                    37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                    11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t i = 0; i < 32; i += 2) {
    for (int64_t step = 0; step < steps; ++step) {
      const __m512i even = LoadVector(rows + RowOffset(i, step, steps));
      const __m512i odd = LoadVector(rows + RowOffset(i + 1, step, steps));
      std::byte* tile = to + step * pair_stride + i * 32;
      StoreVector(tile, _mm512_permutex2var_epi16(even, low, odd));
      StoreVector(tile + kTileBytes, _mm512_permutex2var_epi16(even, high, odd));
    }
  }
}

// bf16 number `i` behind `from`.
inline float NumberAt(const void* from, int64_t i) {
  uint16_t number = 0;
  std::memcpy(&number, static_cast<const std::byte*>(from) + 2 * i, sizeof(number));
  const uint32_t bits = uint32_t{number} << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// 16 * 2 * steps floats of row `row` in [2][2 * steps] fp32 tiles: 16 of them every kTileFloats.
inline int64_t GradientOffset(int64_t row, int64_t steps) {
  return row / 16 * 2 * steps * kTileFloats + row % 16 * 16;
}

// Stores chunk `step` of an output row. Stores that first read what they overwrite take longer.
inline void StoreChunk(const Head& head, BFloat16* row, int64_t step, __m512i x) {
  if (head.stream) return _mm512_stream_si512(reinterpret_cast<__m512i*>(row + 32 * step), x);
  _mm512_mask_storeu_epi16(row + 32 * step, ChunkMask(head.head_dim, step), x);
}

// factor * such a row, rounded to bf16.
inline void StoreRounded(const Head& head, const float* row, float factor, BFloat16* to) {
  const __m512 scale = _mm512_set1_ps(factor);
  for (int64_t step = 0; step < Steps(head.head_dim); ++step, row += 2 * kTileFloats) {
    const __m512 low = _mm512_mul_ps(_mm512_load_ps(row), scale);
    const __m512 high = _mm512_mul_ps(_mm512_load_ps(row + kTileFloats), scale);
    StoreChunk(head, to, step, RoundPair(low, high));
  }
}

// A tile product multiplies hidden pairs by 0, which gives NaN where the other factor is not
// finite. So rows of 32 with such a number go this way: to += sum over the bits k of `visible` of
// coefficients[k] row_of(k), one after the other. `to` lies as in GradientOffset.
template <typename RowOf>
inline void AddVisibleRows(uint32_t visible, const std::byte* coefficients, const RowOf& row_of,
                           int64_t head_dim, float* to) {
  const auto widen = [](__m256i numbers) {
    const __m512i words = _mm512_maskz_cvtepu16_epi32(0xffff, numbers);
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, words, 16));
  };
  const auto add = [](__m512 factor, __m512 numbers, float* sums) {
    _mm512_store_ps(sums, _mm512_fmadd_ps(factor, numbers, _mm512_load_ps(sums)));
  };
  for (; visible != 0; visible &= visible - 1) {
    const int k = __builtin_ctz(visible);
    const __m512 factor = _mm512_set1_ps(NumberAt(coefficients, k));
    const BFloat16* row = row_of(k);
    for (int64_t step = 0; step < Steps(head_dim); ++step) {
      const __m512i chunk = _mm512_maskz_loadu_epi16(ChunkMask(head_dim, step), row + 32 * step);
      float* sums = to + step * 2 * kTileFloats;
      add(factor, widen(_mm512_maskz_extracti64x4_epi64(0xf, chunk, 0)), sums);
      add(factor, widen(_mm512_maskz_extracti64x4_epi64(0xf, chunk, 1)), sums + kTileFloats);
    }
  }
}

// Cuts a workspace into arrays; with a null workspace it only counts.
class Workspace {
 public:
  explicit Workspace(std::byte* begin) : begin_(begin) {}
  std::byte* Bytes(int64_t num_bytes) {
    const int64_t at = used_;
    used_ += CeilDiv(num_bytes, 64) * 64;
    return begin_ == nullptr ? nullptr : begin_ + at;
  }
  float* Floats(int64_t count) { return reinterpret_cast<float*>(Bytes(count * 4)); }
  int64_t used() const { return used_; }

 private:
  std::byte* begin_;
  int64_t used_ = 0;
};

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
