// 32 x 32 products on 2 x 2 tiles. Tiles 0-3 hold C, 4 and 5 A, 6 and 7 B.
#pragma once

#include "kernels/cpu/amx/vectors.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

inline constexpr int64_t kTileBytes = 1024;
inline constexpr int64_t kTileFloats = 256;

enum class Start { kZero, kRow };

template <Start kStart, int kC>
inline void StartTile(const float* row) {
  if constexpr (kStart == Start::kZero) {
    TileZero<kC>();
  } else {
    TileBroadcast<kC>(row);
  }
}

// The same, column by column for two steps (D = 64): a tile of C is stored while the next one is
// computed, which a third of the stores' time pays for.
template <Start kStart>
inline void MultiplyInTwoSteps(const std::byte* a, const std::byte* b, const float* row, float* c) {
  TileLoad<2>(b);
  TileLoad<4>(a);
  StartTile<kStart, 0>(row);
  TileMultiply<0, 4, 2>();
  TileLoad<3>(b + kTileBytes);
  TileLoad<5>(a + kTileBytes);
  TileMultiply<0, 5, 3>();
  TileStore<0>(c);
  TileLoad<6>(a + 2 * kTileBytes);
  TileLoad<7>(a + 3 * kTileBytes);
  StartTile<kStart, 1>(row);
  TileMultiply<1, 6, 2>();
  TileMultiply<1, 7, 3>();
  TileStore<1>(c + 2 * kTileFloats);
  TileLoad<2>(b + 2 * kTileBytes);
  TileLoad<3>(b + 3 * kTileBytes);
  StartTile<kStart, 0>(row + 16);
  TileMultiply<0, 4, 2>();
  TileMultiply<0, 5, 3>();
  TileStore<0>(c + kTileFloats);
  StartTile<kStart, 1>(row + 16);
  TileMultiply<1, 6, 2>();
  TileMultiply<1, 7, 3>();
  TileStore<1>(c + 3 * kTileFloats);
}

// C = A B, or C = row + A B with `row` (32 floats) added to every row: A [2][steps] tiles,
// B [2][steps] tiles, C [2][2] tiles.
template <Start kStart>
inline void Multiply(int64_t steps, const std::byte* a, const std::byte* b, const float* row,
                     float* c) {
  if (steps == 2) return MultiplyInTwoSteps<kStart>(a, b, row, c);
  StartTile<kStart, 0>(row);
  StartTile<kStart, 1>(row + 16);
  StartTile<kStart, 2>(row);
  StartTile<kStart, 3>(row + 16);
  const std::byte* a_below = a + steps * kTileBytes;
  const std::byte* b_right = b + steps * kTileBytes;
  for (int64_t at = 0; at < steps * kTileBytes; at += kTileBytes) {
    TileLoad<4>(a + at);
    TileLoad<6>(b + at);
    TileMultiply<0, 4, 6>();
    TileLoad<7>(b_right + at);
    TileMultiply<1, 4, 7>();
    TileLoad<5>(a_below + at);
    TileMultiply<2, 5, 6>();
    TileMultiply<3, 5, 7>();
  }
  TileStore<0>(c);
  TileStore<1>(c + kTileFloats);
  TileStore<2>(c + 2 * kTileFloats);
  TileStore<3>(c + 3 * kTileFloats);
}

// C (+)= sum over steps of A_k B_k. a(k), b(k): first tile of step k; the second one of A is
// `a_below` bytes behind it, that of B one tile. C: 2 tiles, and 2 tiles `c_below` floats behind.
template <typename A, typename B>
inline void AddProducts(int64_t steps, const A& a, int64_t a_below, const B& b, bool accumulate,
                        float* c, int64_t c_below) {
  if (accumulate) {
    TileLoad<0>(c);
    TileLoad<1>(c + kTileFloats);
    TileLoad<2>(c + c_below);
    TileLoad<3>(c + c_below + kTileFloats);
  } else {
    TileZero<0>();
    TileZero<1>();
    TileZero<2>();
    TileZero<3>();
  }
  for (int64_t k = 0; k < steps; ++k) {
    const std::byte* a_tile = a(k);
    const std::byte* b_tile = b(k);
    TileLoad<4>(a_tile);
    TileLoad<6>(b_tile);
    TileMultiply<0, 4, 6>();
    TileLoad<7>(b_tile + kTileBytes);
    TileMultiply<1, 4, 7>();
    TileLoad<5>(a_tile + a_below);
    TileMultiply<2, 5, 6>();
    TileMultiply<3, 5, 7>();
  }
  TileStore<0>(c);
  TileStore<1>(c + kTileFloats);
  TileStore<2>(c + c_below);
  TileStore<3>(c + c_below + kTileFloats);
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
