// Tiles of shared memory and fragments of them: what the Sep-Attention kernels share.
#pragma once

#include "kernels/cuda/intrinsics.cuh"
#include "kernels/cuda/sep_attention_kernels.h"

namespace sepia::kernels::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr float kMinusInfinity = -__builtin_huge_valf();

SEPIA_DEVICE constexpr int Min(int a, int b) { return a < b ? a : b; }
SEPIA_DEVICE constexpr int Max(int a, int b) { return a > b ? a : b; }
SEPIA_DEVICE constexpr int CeilDiv(int a, int b) { return (a + b - 1) / b; }

// Rows of kDim 16-bit elements in chunks of 16 bytes. Eight rows of one chunk lie in different
// groups of four banks, so that ldmatrix and cp.async meet no conflict: powers of two by exchanging
// chunks (chunk ^ row), D = 80 by an odd number of chunks a row.
template <int kDim>
struct Tile {
  static constexpr int kChunks = kDim / 8;
  static constexpr bool kSwizzled = kChunks % 8 == 0 || kChunks == 4;
  static constexpr int kRowChunks = kSwizzled ? kChunks : kChunks | 1;
  static constexpr int kRowElements = kRowChunks * 8;
  static_assert(kDim % 16 == 0);

  // Element where a chunk starts.
  static SEPIA_DEVICE int Offset(int row, int chunk) {
    if constexpr (kChunks % 8 == 0) {
      return row * kRowElements + (chunk ^ (row & 7)) * 8;
    } else if constexpr (kChunks == 4) {
      return row * kRowElements + (chunk ^ (row >> 1 & 3)) * 8;
    } else {
      return row * kRowElements + chunk * 8;
    }
  }
};

// Where the calling lane reads a 16 x 16 element block for ldmatrix.x4. Blocks start at multiples
// of 16 rows, which leave the swizzle alone.
template <int kDim>
struct LaneRows {
  int row, chunk;

  // The A operand of rows x k, or the B operand of k x n by transposing.
  static SEPIA_DEVICE LaneRows ByRow() {
    const int lane = ThreadIndex() & 31;
    return {(lane & 7) + (lane & 8), lane >> 4};
  }
  // The B operand of n x k: two neighbouring n8 blocks.
  static SEPIA_DEVICE LaneRows ByColumn() {
    const int lane = ThreadIndex() & 31;
    return {(lane & 7) + (lane >> 4) * 8, lane >> 3 & 1};
  }
  SEPIA_DEVICE const uint16_t* At(const uint16_t* tile, int first_row, int block) const {
    return tile + first_row * Tile<kDim>::kRowElements + Tile<kDim>::Offset(row, block * 2 + chunk);
  }
};

// The 16-row blocks of a warp as A operands.
template <int kDim, int kRowTiles, bool kInRegisters>
struct RowOperand {
  static constexpr int kSteps = kDim / 16;
  const uint16_t* tile;
  LaneRows<kDim> lane = LaneRows<kDim>::ByRow();
  uint32_t fragments[kInRegisters ? kRowTiles : 1][kInRegisters ? kSteps : 1][4];

  SEPIA_DEVICE void Start(const uint16_t* rows_of_warp) {
    tile = rows_of_warp;
    if constexpr (kInRegisters) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int k = 0; k < kSteps; ++k) LoadMatrices(fragments[m][k], lane.At(tile, m * 16, k));
      }
    }
  }
  SEPIA_DEVICE void Get(uint32_t (&a)[4], int m, int k) const {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = fragments[m][k][i];
    } else {
      LoadMatrices(a, lane.At(tile, m * 16, k));
    }
  }
};

// Rows of global memory `stride` elements apart, of which the first `num_rows` exist, and columns
// of which the first head_dim do: the rest of the tile becomes zero.
struct GlobalRows {
  const uint16_t* data;
  int stride;
  int num_rows;
};

template <int kDim, int kRows, int kThreads>
SEPIA_DEVICE void LoadTile(uint16_t* tile, const GlobalRows& rows, int head_dim) {
  constexpr int kChunks = Tile<kDim>::kChunks;
#pragma unroll
  for (int i = 0; i < CeilDiv(kRows * kChunks, kThreads); ++i) {
    const int item = i * kThreads + ThreadIndex();
    if (kRows * kChunks % kThreads != 0 && item >= kRows * kChunks) break;
    const int row = item / kChunks, chunk = item % kChunks;
    const bool valid = row < rows.num_rows && chunk * 8 < head_dim;
    AsyncCopy16(tile + Tile<kDim>::Offset(row, chunk),
                valid ? rows.data + row * rows.stride + chunk * 8 : rows.data, valid);
  }
}

// Stores rows of a tile by 16 bytes a thread.
template <int kDim, int kRows, int kThreads>
SEPIA_DEVICE void StoreTile(uint16_t* to, int stride, int num_rows, const uint16_t* tile,
                            int head_dim) {
  constexpr int kChunks = Tile<kDim>::kChunks;
  for (int item = ThreadIndex(); item < kRows * kChunks; item += kThreads) {
    const int row = item / kChunks, chunk = item % kChunks;
    if (row >= num_rows || chunk * 8 >= head_dim) continue;
    const auto* from = reinterpret_cast<const Vec4*>(tile + Tile<kDim>::Offset(row, chunk));
    StoreGlobal(reinterpret_cast<Vec4*>(to + row * stride + chunk * 8), LoadShared(from));
  }
}

// Writes an accumulator of 16 rows x kBlocks n8 columns, times `factor` of each half, as rows of a
// tile. factor[h] belongs to rows g + 8 h.
template <typename Format, int kDim, int kBlocks>
SEPIA_DEVICE void AccumulatorToTile(uint16_t* tile, int first_row, const float (&c)[kBlocks][4],
                                    const float (&factor)[2]) {
  const int lane = ThreadIndex() & 31;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + (lane >> 2) + 8 * half;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      auto* to = reinterpret_cast<uint32_t*>(tile + Tile<kDim>::Offset(row, block));
      StoreShared(to + (lane & 3), Pack(Format{}, c[block][2 * half] * factor[half],
                                        c[block][2 * half + 1] * factor[half]));
    }
  }
}

// Two n8 accumulators, side by side, as the A operand of a product over those 16 columns.
template <typename Format>
SEPIA_DEVICE void AccumulatorsToOperand(uint32_t (&a)[4], const float (&left)[4],
                                        const float (&right)[4]) {
  a[0] = Pack(Format{}, left[0], left[1]);
  a[1] = Pack(Format{}, left[2], left[3]);
  a[2] = Pack(Format{}, right[0], right[1]);
  a[3] = Pack(Format{}, right[2], right[3]);
}

template <int kRows, int kColumns>
SEPIA_DEVICE void SetZero(float (&values)[kRows][kColumns]) {
#pragma unroll
  for (auto& row : values) {
#pragma unroll
    for (float& value : row) value = 0;
  }
}

// Element offsets of (batch, head) in the tensors of SepAttentionParams.
struct HeadOffsets {
  int64_t qkv;  // of token 0, part 0
  int64_t out;
  int64_t packed;        // in packed_keys
  int64_t rows;          // in lse; twice that in row_stats
  int qkv_row, out_row;  // between tokens

  // Of token t.
  SEPIA_DEVICE int64_t Qkv(int t) const { return qkv + static_cast<int64_t>(t) * qkv_row; }
  SEPIA_DEVICE int64_t Out(int t) const { return out + static_cast<int64_t>(t) * out_row; }

  SEPIA_DEVICE HeadOffsets(const SepAttentionParams& p, int batch, int head) {
    out_row = p.num_heads * p.head_dim;
    qkv_row = 3 * out_row;
    qkv = static_cast<int64_t>(batch) * p.seq_length * qkv_row +
          static_cast<int64_t>(head) * 3 * p.head_dim;
    out = static_cast<int64_t>(batch) * p.seq_length * out_row +
          static_cast<int64_t>(head) * p.head_dim;
    const int64_t batch_head = static_cast<int64_t>(batch) * p.num_heads + head;
    packed = batch_head * p.max_packed * p.head_dim;
    rows = batch_head * p.seq_length;
  }
};

}  // namespace sepia::kernels::cuda
