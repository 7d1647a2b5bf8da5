// dq: one block owns kWarps * kRowTiles * 16 query rows of one head and visits the key tiles that
// forward visits. Probabilities come again from lse; with ds = p * (dout . v - sum(dout * out)),
// dq = scale * ds K. P and ds stay in registers: accumulators are the next product's operands.
#pragma once

#include "kernels/cuda/sep_query_rows.cuh"

namespace sepia::kernels::cuda {

template <int kDim>
struct DqShape {
  static constexpr int kWarps = kDim == 256 ? 8 : 4;
  static constexpr int kRowTiles = kDim <= 80 ? 2 : 1;
  static constexpr int kKeys = kDim <= 64 ? 64 : kDim == 256 ? 16 : 32;
  static constexpr bool kRowsInRegisters = kDim <= 128;
  static constexpr int kBlocksPerMultiprocessor = kDim == 256 ? 1 : 2;

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr int kKeyElements = kKeys * Tile<kDim>::kRowElements;
  static constexpr int kRowElements = kRows * Tile<kDim>::kRowElements;
  static constexpr int kSharedBytes = (2 * kRowElements + 4 * kKeyElements) * 2 + kRows * 4;
};

template <typename Format, int kDim>
struct DqWarp {
  using Shape = DqShape<kDim>;
  static constexpr int kRowTiles = Shape::kRowTiles, kKeys = Shape::kKeys;
  using View = TileView<kRowTiles, kKeys>;
  using Group = float[kRowTiles][2][4];  // 16 columns

  RowOperand<kDim, kRowTiles, Shape::kRowsInRegisters> query, dout;
  Float2 stats[2 * kRowTiles];  // lse / ln 2, sum(dout * out) of the thread's rows
  float dq[kRowTiles][kDim / 8][4];

  SEPIA_DEVICE void Start(const uint16_t* query_rows, const uint16_t* dout_rows) {
    query.Start(query_rows);
    dout.Start(dout_rows);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) SetZero(dq[m]);
  }

  SEPIA_DEVICE void LoadStats(const QueryRows<kRowTiles>& rows, const float* row_stats) {
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const int row = Min(rows.Row(r), rows.seq_length - 1);
      stats[r] = LoadGlobal(reinterpret_cast<const Float2*>(row_stats) + row);
    }
  }

  template <bool kEdge>
  SEPIA_DEVICE void Visit(const View& view, const QueryRows<kRowTiles>& rows, const uint16_t* keys,
                          const uint16_t* values, float scale_log2) {
#pragma unroll
    for (int g = 0; g < kKeys / 16; ++g) {
      bool active[kRowTiles], any = false;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        active[m] = !kEdge || view.Active(m, g);
        any = any || active[m];
      }
      if (kEdge && !any) continue;
      Group p, ds;
      Multiply<kEdge>(active, g, keys, values, p, ds);
      Differentiate<kEdge>(view, rows, g, scale_log2, p, ds);
      Accumulate<kEdge>(active, g, keys, ds);
    }
  }

  // p = q k, dp = dout v.
  template <bool kEdge>
  SEPIA_DEVICE void Multiply(const bool (&active)[kRowTiles], int g, const uint16_t* keys,
                             const uint16_t* values, Group& p, Group& dp) const {
    const auto lane = LaneRows<kDim>::ByColumn();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      SetZero(p[m]);
      SetZero(dp[m]);
    }
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t key[4], value[4];
      LoadMatrices(key, lane.At(keys, g * 16, k));
      LoadMatrices(value, lane.At(values, g * 16, k));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (kEdge && !active[m]) continue;
        uint32_t a[4];
        query.Get(a, m, k);
        MultiplyAdd(Format{}, p[m][0], a, key);
        MultiplyAdd(Format{}, p[m][1], a, key + 2);
        dout.Get(a, m, k);
        MultiplyAdd(Format{}, dp[m][0], a, value);
        MultiplyAdd(Format{}, dp[m][1], a, value + 2);
      }
    }
  }

  template <bool kEdge>
  SEPIA_DEVICE void Differentiate(const View& view, const QueryRows<kRowTiles>& rows, int g,
                                  float scale_log2, const Group& p, Group& ds) const {
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const int low = kEdge ? view.Low(rows, r) : 0, high = kEdge ? view.High(rows, r) : 0;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = g * 16 + n * 8 + e;
          float& value = ds[r >> 1][n][(r & 1) * 2 + e];
          float probability = Exp2(p[r >> 1][n][(r & 1) * 2 + e] * scale_log2 - stats[r].x);
          if (kEdge && (column < low || column >= high)) probability = 0;
          value = probability * (value - stats[r].y);
        }
      }
    }
  }

  template <bool kEdge>
  SEPIA_DEVICE void Accumulate(const bool (&active)[kRowTiles], int g, const uint16_t* keys,
                               const Group& ds) {
    const auto lane = LaneRows<kDim>::ByRow();
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      AccumulatorsToOperand<Format>(a[m], ds[m][0], ds[m][1]);
    }
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t b[4];
      LoadMatricesTransposed(b, lane.At(keys, g * 16, d));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (kEdge && !active[m]) continue;
        MultiplyAdd(Format{}, dq[m][2 * d], a[m], b);
        MultiplyAdd(Format{}, dq[m][2 * d + 1], a[m], b + 2);
      }
    }
  }
};

// Grid: x = batch * heads + head, y = query tile, the last (longest) first.
template <typename Format, int kDim>
SEPIA_KERNEL(DqShape<kDim>::kThreads, DqShape<kDim>::kBlocksPerMultiprocessor)
SepDq(const SepAttentionParams p) {
  using Shape = DqShape<kDim>;
  auto* query_tile = reinterpret_cast<uint16_t*>(SharedMemory());
  uint16_t* const dout_tile = query_tile + Shape::kRowElements;
  uint16_t* const key_tiles = dout_tile + Shape::kRowElements;
  uint16_t* const value_tiles = key_tiles + 2 * Shape::kKeyElements;
  int* const far = reinterpret_cast<int*>(value_tiles + 2 * Shape::kKeyElements);

  const int batch = BlockIndexX() / p.num_heads, head = BlockIndexX() % p.num_heads;
  const int first_row = (GridSizeY() - 1 - BlockIndexY()) * Shape::kRows;
  const HeadOffsets at(p, batch, head);
  const int32_t* count = p.count + static_cast<int64_t>(batch) * p.seq_length;
  const KeyTiles<Shape::kKeys> tiles(p, count, first_row, Shape::kRows);
  const KeyLoader<kDim, Shape::kKeys, Shape::kThreads> loader(p, tiles, at);

  const int num_rows = p.seq_length - first_row;
  LoadTile<kDim, Shape::kRows, Shape::kThreads>(
      query_tile, {p.qkv + at.Qkv(first_row), at.qkv_row, num_rows}, p.head_dim);
  LoadTile<kDim, Shape::kRows, Shape::kThreads>(
      dout_tile, {p.dout + at.Out(first_row), at.out_row, num_rows}, p.head_dim);
  loader.Load(0, key_tiles, value_tiles);
  AsyncCommit();

  const int first_of_warp = ThreadIndex() / 32 * Shape::kRowTiles * 16;
  const int warp_offset = first_of_warp * Tile<kDim>::kRowElements;
  const QueryRows<Shape::kRowTiles> rows = {first_row + first_of_warp, far + first_of_warp,
                                            p.window, p.seq_length};
  rows.template StoreFar<Shape::kRows>(p, count, first_row, far);
  const float scale_log2 = p.scale * kLog2E;
  DqWarp<Format, kDim> warp;
  warp.LoadStats(rows, p.row_stats + 2 * at.rows);
  SweepKeyTiles<Shape::kKeyElements>(
      tiles, loader, rows, key_tiles, value_tiles, scale_log2, warp,
      [&] { warp.Start(query_tile + warp_offset, dout_tile + warp_offset); });
  SyncThreads();  // the query tile becomes the output tile
#pragma unroll
  for (int m = 0; m < Shape::kRowTiles; ++m) {
    AccumulatorToTile<Format, kDim>(query_tile, first_of_warp + m * 16, warp.dq[m],
                                    {p.scale, p.scale});
  }
  SyncThreads();
  StoreTile<kDim, Shape::kRows, Shape::kThreads>(p.dqkv + at.Qkv(first_row), at.qkv_row, num_rows,
                                                 query_tile, p.head_dim);
}

}  // namespace sepia::kernels::cuda
