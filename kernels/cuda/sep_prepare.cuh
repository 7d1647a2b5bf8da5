// What the tensor-core kernels need beforehand: far keys in contiguous rows, and per query its
// log-sum-exp in units of ln 2 and sum(dout * out).
#pragma once

#include "kernels/cuda/sep_tiles.cuh"

namespace sepia::kernels::cuda {

inline constexpr int kPrepareThreads = 128;

// 16-byte chunks of packed rows that one block copies.
inline constexpr int kPackChunks = 4 * kPrepareThreads;

// Grid: x = batch * heads + head, y = part of the chunks of P rows.
static SEPIA_KERNEL(kPrepareThreads, 1) SepPack(const SepAttentionParams p) {
  const int batch = BlockIndexX() / p.num_heads, head = BlockIndexX() % p.num_heads;
  const HeadOffsets at(p, batch, head);
  const int chunks = p.head_dim / 8;
  const int num_chunks = LoadGlobal(p.num_packed + batch) * chunks;
  const int32_t* positions = p.positions + static_cast<int64_t>(batch) * p.max_packed;
  for (int i = 0; i < kPackChunks / kPrepareThreads; ++i) {
    const int item = BlockIndexY() * kPackChunks + i * kPrepareThreads + ThreadIndex();
    if (item >= num_chunks) break;
    const int row = item / chunks, chunk = item % chunks;
    const uint16_t* key = p.qkv + at.Qkv(LoadGlobal(positions + row)) + p.head_dim + chunk * 8;
    const int64_t to = at.packed + static_cast<int64_t>(row) * p.head_dim + chunk * 8;
    StoreGlobal(reinterpret_cast<Vec4*>(p.packed_keys + to),
                LoadGlobal(reinterpret_cast<const Vec4*>(key)));
    StoreGlobal(reinterpret_cast<Vec4*>(p.packed_values + to),
                LoadGlobal(reinterpret_cast<const Vec4*>(key + p.head_dim)));
  }
}

template <int kDim>
struct RowStatsShape {
  static constexpr int kLanes = kDim <= 32 ? 4 : kDim <= 64 ? 8 : kDim <= 128 ? 16 : 32;
  static constexpr int kRows = kPrepareThreads / kLanes;  // a block
};

template <typename Format>
SEPIA_DEVICE float DotOfPairs(uint32_t a, uint32_t b) {
  const auto low = [](uint32_t x) { return Widen(Format{}, static_cast<uint16_t>(x)); };
  const auto high = [](uint32_t x) { return Widen(Format{}, static_cast<uint16_t>(x >> 16)); };
  return low(a) * low(b) + high(a) * high(b);
}

// Grid: x = rows of [B, T, H], kRows a block. A chunk of 8 elements a lane.
template <typename Format, int kDim>
SEPIA_KERNEL(kPrepareThreads, 1)
SepRowStats(const SepAttentionParams p) {
  using Shape = RowStatsShape<kDim>;
  const int64_t num_rows = static_cast<int64_t>(p.batch_size) * p.seq_length * p.num_heads;
  const int64_t row =
      static_cast<int64_t>(BlockIndexX()) * Shape::kRows + ThreadIndex() / Shape::kLanes;
  const int chunk = ThreadIndex() % Shape::kLanes;
  float dot = 0;
  if (row < num_rows && chunk * 8 < p.head_dim) {
    const int64_t from = row * p.head_dim + chunk * 8;
    const auto o = LoadGlobal(reinterpret_cast<const Vec4*>(p.out + from));
    const auto g = LoadGlobal(reinterpret_cast<const Vec4*>(p.dout + from));
    dot = DotOfPairs<Format>(o.x, g.x) + DotOfPairs<Format>(o.y, g.y) +
          (DotOfPairs<Format>(o.z, g.z) + DotOfPairs<Format>(o.w, g.w));
  }
#pragma unroll
  for (int distance = 1; distance < Shape::kLanes; distance *= 2) {
    dot += ShuffleXor(dot, distance);
  }
  if (row >= num_rows || chunk != 0) return;
  const int64_t head = row % p.num_heads, token = row / p.num_heads;
  const int64_t batch = token / p.seq_length, t = token % p.seq_length;
  const int64_t to = (batch * p.num_heads + head) * p.seq_length + t;
  StoreGlobal(reinterpret_cast<Float2*>(p.row_stats) + to,
              Float2{LoadGlobal(p.lse + to) * kLog2E, dot});
}

}  // namespace sepia::kernels::cuda
