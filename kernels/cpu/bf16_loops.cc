#include "kernels/cpu/bf16_loops.h"

#include <immintrin.h>

namespace sepia::kernels::cpu {

// By attribute, not by flags of the file: nothing here is shared with other code.
__attribute__((target("avx512f,avx512bf16"))) int64_t Dpbf16Loop(int64_t rounds,
                                                                 const BFloat16* random,
                                                                 float* sink) {
  // As in a product of 4 x 3 vectors: 12 sums, 7 operands.
  constexpr int kRows = 4;
  constexpr int kColumns = 3;
  constexpr int kPairs = 16;
  __m512bh operand[kRows + kColumns];
  for (int i = 0; i < kRows + kColumns; ++i) {
    operand[i] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(random + i * 2 * kPairs));
  }
  __m512 sum[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) sum[r][c] = _mm512_setzero_ps();
  }
  for (int64_t round = 0; round < rounds; ++round) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; ++c) {
        sum[r][c] = _mm512_dpbf16_ps(sum[r][c], operand[r], operand[kRows + c]);
      }
    }
  }
  __m512 total = _mm512_setzero_ps();
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) total = _mm512_add_ps(total, sum[r][c]);
  }
  *sink = _mm512_cvtss_f32(total);
  return rounds * kRows * kColumns * kPairs * 4;
}

int64_t TileLoop(int64_t rounds, const BFloat16* random, float* sink) {
  // Palette 1: 8 tiles of 16 rows of 64 bytes (Intel SDM volume 2, LDTILECFG).
  constexpr int kTiles = 8;
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes_a_row[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < kTiles; ++tile) {
    config.bytes_a_row[tile] = 64;
    config.rows[tile] = 16;
  }
  constexpr int kTileElements = 16 * 32;
  const int64_t stride = 64;
  alignas(64) float result[16 * 16];
  // Four sums of 2 x 2 operand tiles: 16 cycles a product hide its latency of 52.
  asm volatile(
      "ldtilecfg (%0)\n\t"
      "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
      "tileloadd (%1,%5,1), %%tmm4\n\ttileloadd (%2,%5,1), %%tmm5\n\t"
      "tileloadd (%3,%5,1), %%tmm6\n\ttileloadd (%4,%5,1), %%tmm7\n\t"
      :
      : "r"(&config), "r"(random), "r"(random + kTileElements), "r"(random + 2 * kTileElements),
        "r"(random + 3 * kTileElements), "r"(stride)
      : "memory");
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3\n\t");
  }
  asm volatile("tilestored %%tmm3, (%0,%1,1)\n\ttilerelease"
               :
               : "r"(result), "r"(stride)
               : "memory");
  *sink = result[0];
  constexpr int64_t kProduct = 2 * 16 * 16 * 32;
  return rounds * 4 * kProduct;
}

}  // namespace sepia::kernels::cpu
