// dk and dv: one block owns kWarps * kRowTiles * 16 keys of one head and visits the tiles of
// queries that see them. Keys are the rows of the products: S^T = K Q^T, dP^T = V dO^T, and their
// transposed results are the operands of dv += P^T dO and dk += dS^T Q, straight from registers.
//
// Two kernels of one body: the far pass owns packed keys and writes fp32 partial gradients of one
// query segment; the band pass owns all keys, sums their band and adds the far part of keys that
// have one, in the order of the segments.
#pragma once

#include "kernels/cuda/sep_key_rows.cuh"

namespace sepia::kernels::cuda {

template <int kDim>
struct DkvShape {
  static constexpr int kWarps = kDim == 256 ? 8 : 4;
  static constexpr int kRowTiles = kDim <= 64 ? 2 : 1;
  static constexpr int kQueries = kDim <= 64 ? 64 : kDim == 256 ? 16 : 32;
  static constexpr bool kKeysInRegisters = kDim <= 128;
  static constexpr bool kValuesInRegisters = kDim == 32 || kDim == 80;
  // The gradients of 256 columns do not fit the registers: a block makes half of them, and the
  // first two products twice.
  static constexpr int kColumnParts = kDim == 256 ? 2 : 1;
  static constexpr int kBlocksPerMultiprocessor = kDim == 256 ? 1 : 2;

  static constexpr int kColumns = kDim / kColumnParts;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr int kRowElements = kRows * Tile<kDim>::kRowElements;
  static constexpr int kQueryElements = kQueries * Tile<kDim>::kRowElements;
  static constexpr int kStatsBytes = 2 * kQueries * static_cast<int>(sizeof(Float2));
  static constexpr int kSharedBytes =
      (2 * kRowElements + 4 * kQueryElements) * 2 + kStatsBytes + kRows * 4;
};

template <typename Format, int kDim>
struct DkvWarp {
  using Shape = DkvShape<kDim>;
  static constexpr int kRowTiles = Shape::kRowTiles;
  using View = QueryView<kRowTiles, Shape::kQueries>;
  using Group = float[kRowTiles][2][4];  // 16 queries

  RowOperand<kDim, kRowTiles, Shape::kKeysInRegisters> key_rows;
  RowOperand<kDim, kRowTiles, Shape::kValuesInRegisters> value_rows;
  float dk[kRowTiles][Shape::kColumns / 8][4], dv[kRowTiles][Shape::kColumns / 8][4];

  SEPIA_DEVICE void Clear() {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      SetZero(dk[m]);
      SetZero(dv[m]);
    }
  }

  struct QueryTile {
    const uint16_t* query;
    const uint16_t* dout;
    const Float2* stats;
    int base;          // first query
    int first_column;  // of the gradients made here, in blocks of 16
  };

  template <bool kEdge, bool kFar>
  SEPIA_DEVICE void Visit(const View& view, const KeyRows<kFar>& rows, int first_row,
                          const QueryTile& tile, float scale_log2) {
#pragma unroll
    for (int g = 0; g < Shape::kQueries / 16; ++g) {
      bool active[kRowTiles], any = false;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        active[m] = !kEdge || view.Active(m, tile.base + g * 16);
        any = any || active[m];
      }
      if (kEdge && !any) continue;
      Group p, ds;
      Multiply<kEdge>(active, tile, g, p, ds);
      Differentiate<kEdge>(rows, first_row, tile, g, scale_log2, p, ds);
      uint32_t p_operand[kRowTiles][4], ds_operand[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        AccumulatorsToOperand<Format>(p_operand[m], p[m][0], p[m][1]);
        AccumulatorsToOperand<Format>(ds_operand[m], ds[m][0], ds[m][1]);
      }
      Accumulate<kEdge>(active, tile, g, p_operand, ds_operand);
    }
  }

  // p = k q, dp = v dout.
  template <bool kEdge>
  SEPIA_DEVICE void Multiply(const bool (&active)[kRowTiles], const QueryTile& tile, int g,
                             Group& p, Group& dp) const {
    const auto lane = LaneRows<kDim>::ByColumn();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      SetZero(p[m]);
      SetZero(dp[m]);
    }
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t q[4], o[4];
      LoadMatrices(q, lane.At(tile.query, g * 16, k));
      LoadMatrices(o, lane.At(tile.dout, g * 16, k));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (kEdge && !active[m]) continue;
        uint32_t a[4];
        key_rows.Get(a, m, k);
        MultiplyAdd(Format{}, p[m][0], a, q);
        MultiplyAdd(Format{}, p[m][1], a, q + 2);
        value_rows.Get(a, m, k);
        MultiplyAdd(Format{}, dp[m][0], a, o);
        MultiplyAdd(Format{}, dp[m][1], a, o + 2);
      }
    }
  }

  template <bool kEdge, bool kFar>
  SEPIA_DEVICE void Differentiate(const KeyRows<kFar>& rows, int first_row, const QueryTile& tile,
                                  int g, float scale_log2, Group& p, Group& ds) const {
    const int thread_column = (ThreadIndex() & 3) * 2;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int column = g * 16 + n * 8 + thread_column;  // this one and the next
      const Float4 pair = LoadShared(reinterpret_cast<const Float4*>(tile.stats + column));
      const float lse[2] = {pair.x, pair.z}, dot[2] = {pair.y, pair.w};
#pragma unroll
      for (int r = 0; r < 2 * kRowTiles; ++r) {
        const int row = first_row + (r >> 1) * 16 + (r & 1) * 8 + ((ThreadIndex() & 31) >> 2);
        const bool exists = !kEdge || row < rows.NumRows();
        const int low = kEdge ? rows.Low(row) : 0, high = kEdge && exists ? rows.High(row) : 0;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& probability = p[r >> 1][n][(r & 1) * 2 + e];
          float& value_of_ds = ds[r >> 1][n][(r & 1) * 2 + e];
          probability = Exp2(probability * scale_log2 - lse[e]);
          const int query = tile.base + column + e;
          if (kEdge && (query < low || query >= high)) probability = 0;
          value_of_ds = probability * (value_of_ds - dot[e]);
        }
      }
    }
  }

  template <bool kEdge>
  SEPIA_DEVICE void Accumulate(const bool (&active)[kRowTiles], const QueryTile& tile, int g,
                               const uint32_t (&p)[kRowTiles][4],
                               const uint32_t (&ds)[kRowTiles][4]) {
    const auto lane = LaneRows<kDim>::ByRow();
#pragma unroll
    for (int d = 0; d < Shape::kColumns / 16; ++d) {
      uint32_t q[4], o[4];
      LoadMatricesTransposed(o, lane.At(tile.dout, g * 16, tile.first_column + d));
      LoadMatricesTransposed(q, lane.At(tile.query, g * 16, tile.first_column + d));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (kEdge && !active[m]) continue;
        MultiplyAdd(Format{}, dv[m][2 * d], p[m], o);
        MultiplyAdd(Format{}, dv[m][2 * d + 1], p[m], o + 2);
        MultiplyAdd(Format{}, dk[m][2 * d], ds[m], q);
        MultiplyAdd(Format{}, dk[m][2 * d + 1], ds[m], q + 2);
      }
    }
  }

  // fn(key, column, dk, dv) for every pair of neighbouring columns that the thread owns, of keys
  // and columns that exist. `first_key` is the warp's.
  template <typename Fn>
  SEPIA_DEVICE void ForPairs(int num_keys, int first_key, int num_columns, const Fn& fn) {
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const int key = first_key + (r >> 1) * 16 + (r & 1) * 8 + ((ThreadIndex() & 31) >> 2);
      if (key >= num_keys) continue;
#pragma unroll
      for (int d = 0; d < Shape::kColumns / 8; ++d) {
        const int column = d * 8 + (ThreadIndex() & 3) * 2;
        if (column >= num_columns) continue;
        fn(key, column, &dk[r >> 1][d][(r & 1) * 2], &dv[r >> 1][d][(r & 1) * 2]);
      }
    }
  }
};

// Queries, their output gradients and statistics of tile t, in buffer t % 2.
template <int kDim>
struct QueryLoader {
  using Shape = DkvShape<kDim>;
  const SepAttentionParams& p;
  const HeadOffsets& at;
  uint16_t* query;
  uint16_t* dout;
  Float2* stats;

  SEPIA_DEVICE void Load(int t) const {
    const int base = t * Shape::kQueries, num_rows = p.seq_length - base;
    const int buffer = (t & 1) * Shape::kQueryElements;
    LoadTile<kDim, Shape::kQueries, Shape::kThreads>(
        query + buffer, {p.qkv + at.Qkv(base), at.qkv_row, num_rows}, p.head_dim);
    LoadTile<kDim, Shape::kQueries, Shape::kThreads>(
        dout + buffer, {p.dout + at.Out(base), at.out_row, num_rows}, p.head_dim);
    const int i = ThreadIndex();
    if (i < Shape::kQueries) {
      const auto* from = reinterpret_cast<const Float2*>(p.row_stats) + at.rows + base;
      const bool valid = i < num_rows;
      AsyncCopy8(stats + (t & 1) * Shape::kQueries + i, valid ? from + i : from, valid);
    }
  }
};

// Shared memory of a block.
template <int kDim>
struct DkvTiles {
  using Shape = DkvShape<kDim>;
  uint16_t *key, *value;
  uint16_t *query, *dout;  // two of each
  Float2* stats;           // two
  int* lows;

  SEPIA_DEVICE DkvTiles() {
    key = reinterpret_cast<uint16_t*>(SharedMemory());
    value = key + Shape::kRowElements;
    query = value + Shape::kRowElements;
    dout = query + 2 * Shape::kQueryElements;
    stats = reinterpret_cast<Float2*>(dout + 2 * Shape::kQueryElements);
    lows = reinterpret_cast<int*>(stats + 2 * Shape::kQueries);
  }
};

// Sums over the queries [first_query, last_query), in the warp's registers.
template <typename Format, int kDim, bool kFar>
SEPIA_DEVICE void SumOverQueries(const SepAttentionParams& p, const HeadOffsets& at, int batch,
                                 const DkvTiles<kDim>& tiles, const KeyRows<kFar>& keys,
                                 int first_query, int last_query, int first_column,
                                 DkvWarp<Format, kDim>& warp) {
  using Shape = DkvShape<kDim>;
  const int first_low = keys.template StoreLows<Shape::kRows>(p, batch);
  const int begin = Max(first_query, first_low) / Shape::kQueries;
  const int end =
      CeilDiv(Min(last_query, keys.High(Min(Shape::kRows, keys.NumRows()) - 1)), Shape::kQueries);
  warp.Clear();
  if (begin >= end) return;

  const int stride = kFar ? p.head_dim : at.qkv_row;
  const int64_t from = static_cast<int64_t>(keys.first_key) * stride;
  const uint16_t* k = kFar ? p.packed_keys + at.packed : p.qkv + at.qkv + p.head_dim;
  const uint16_t* v = kFar ? p.packed_values + at.packed : p.qkv + at.qkv + 2 * p.head_dim;
  LoadTile<kDim, Shape::kRows, Shape::kThreads>(tiles.key, {k + from, stride, keys.NumRows()},
                                                p.head_dim);
  LoadTile<kDim, Shape::kRows, Shape::kThreads>(tiles.value, {v + from, stride, keys.NumRows()},
                                                p.head_dim);
  const QueryLoader<kDim> loader = {p, at, tiles.query, tiles.dout, tiles.stats};
  loader.Load(begin);
  AsyncCommit();

  const int first_row = ThreadIndex() / 32 * Shape::kRowTiles * 16;
  const float scale_log2 = p.scale * kLog2E;
  for (int t = begin; t < end; ++t) {
    AsyncWait<0>();
    SyncThreads();  // tile t has arrived; nobody reads tile t - 1 any more
    if (t == begin) {
      warp.key_rows.Start(tiles.key + first_row * Tile<kDim>::kRowElements);
      warp.value_rows.Start(tiles.value + first_row * Tile<kDim>::kRowElements);
    }
    if (t + 1 < end) loader.Load(t + 1);
    AsyncCommit();
    const int buffer = (t & 1) * Shape::kQueryElements;
    const typename DkvWarp<Format, kDim>::QueryTile tile = {
        tiles.query + buffer, tiles.dout + buffer, tiles.stats + (t & 1) * Shape::kQueries,
        t * Shape::kQueries, first_column / 16};
    const QueryView<Shape::kRowTiles, Shape::kQueries> view(keys, first_row, tile.base);
    if (view.all) {
      warp.template Visit<false>(view, keys, first_row, tile, scale_log2);
    } else if (view.any) {
      warp.template Visit<true>(view, keys, first_row, tile, scale_log2);
    }
  }
}

// Grid: x = batch * heads + head, y = tile of packed keys (the first, seen longest, first), z =
// segment * column parts + column part.
template <typename Format, int kDim>
SEPIA_KERNEL(DkvShape<kDim>::kThreads, DkvShape<kDim>::kBlocksPerMultiprocessor)
SepDkvFar(const SepAttentionParams p) {
  using Shape = DkvShape<kDim>;
  const int batch = BlockIndexX() / p.num_heads, head = BlockIndexX() % p.num_heads;
  const int first_key = BlockIndexY() * Shape::kRows;
  const int segment = BlockIndexZ() / Shape::kColumnParts;
  const int first_column = BlockIndexZ() % Shape::kColumnParts * Shape::kColumns;
  const DkvTiles<kDim> tiles;
  const KeyRows<true> keys(p, batch, first_key, tiles.lows);
  if (keys.NumRows() <= 0) return;
  const HeadOffsets at(p, batch, head);
  DkvWarp<Format, kDim> warp;
  SumOverQueries<Format, kDim, true>(p, at, batch, tiles, keys, segment * p.segment_length,
                                     Min((segment + 1) * p.segment_length, p.seq_length),
                                     first_column, warp);
  const int64_t part =
      static_cast<int64_t>(segment) * p.batch_size * p.num_heads * p.max_packed * p.head_dim;
  float* const dkeys = p.packed_dkeys + part + at.packed + first_column;
  float* const dvalues = p.packed_dvalues + part + at.packed + first_column;
  const int first_of_warp = ThreadIndex() / 32 * Shape::kRowTiles * 16;
  warp.ForPairs(keys.num_keys, first_key + first_of_warp, p.head_dim - first_column,
                [&](int key, int column, const float* dk, const float* dv) {
                  const int64_t to = static_cast<int64_t>(key) * p.head_dim + column;
                  StoreGlobal(reinterpret_cast<Float2*>(dkeys + to),
                              Float2{dk[0] * p.scale, dk[1] * p.scale});
                  StoreGlobal(reinterpret_cast<Float2*>(dvalues + to), Float2{dv[0], dv[1]});
                });
}

// Scales dk and adds the far gradients of the thread's keys, segment by segment.
template <typename Format, int kDim>
SEPIA_DEVICE void AddFarPart(const SepAttentionParams& p, const HeadOffsets& at, int batch,
                             int first_key, int first_column, DkvWarp<Format, kDim>& warp) {
  const int32_t* inverse = p.inverse + static_cast<int64_t>(batch) * p.seq_length;
  const int num_columns = p.head_dim - first_column;
  warp.ForPairs(p.seq_length, first_key, num_columns, [&](int, int, float* dk, float*) {
    dk[0] *= p.scale;
    dk[1] *= p.scale;
  });
  const int64_t segment_size =
      static_cast<int64_t>(p.batch_size) * p.num_heads * p.max_packed * p.head_dim;
  const float* dkeys = p.packed_dkeys + at.packed + first_column;
  const float* dvalues = p.packed_dvalues + at.packed + first_column;
#pragma unroll 1
  for (int s = 0; s < p.num_segments; ++s, dkeys += segment_size, dvalues += segment_size) {
    warp.ForPairs(p.seq_length, first_key, num_columns,
                  [&](int key, int column, float* dk, float* dv) {
                    const int packed = LoadGlobal(inverse + key);
                    if (packed < 0) return;
                    const int64_t from = static_cast<int64_t>(packed) * p.head_dim + column;
                    const auto k = LoadGlobal(reinterpret_cast<const Float2*>(dkeys + from));
                    const auto v = LoadGlobal(reinterpret_cast<const Float2*>(dvalues + from));
                    dk[0] += k.x;
                    dk[1] += k.y;
                    dv[0] += v.x;
                    dv[1] += v.y;
                  });
  }
}

// Grid: x = batch * heads + head, y = tile of keys, z = column part.
template <typename Format, int kDim>
SEPIA_KERNEL(DkvShape<kDim>::kThreads, DkvShape<kDim>::kBlocksPerMultiprocessor)
SepDkvBand(const SepAttentionParams p) {
  using Shape = DkvShape<kDim>;
  const int batch = BlockIndexX() / p.num_heads, head = BlockIndexX() % p.num_heads;
  const int first_key = BlockIndexY() * Shape::kRows;
  const int first_column = BlockIndexZ() * Shape::kColumns;
  const HeadOffsets at(p, batch, head);
  DkvWarp<Format, kDim> warp;
  const DkvTiles<kDim> tiles;
  SumOverQueries<Format, kDim, false>(p, at, batch, tiles,
                                      KeyRows<false>(p, batch, first_key, tiles.lows), 0,
                                      p.seq_length, first_column, warp);
  const int first_of_warp = ThreadIndex() / 32 * Shape::kRowTiles * 16;
  AddFarPart<Format, kDim>(p, at, batch, first_key + first_of_warp, first_column, warp);

  // The key and value tiles become the output tiles.
  SyncThreads();
#pragma unroll
  for (int m = 0; m < Shape::kRowTiles; ++m) {
    AccumulatorToTile<Format, Shape::kColumns>(tiles.key, first_of_warp + m * 16, warp.dk[m],
                                               {1.0f, 1.0f});
    AccumulatorToTile<Format, Shape::kColumns>(tiles.value, first_of_warp + m * 16, warp.dv[m],
                                               {1.0f, 1.0f});
  }
  SyncThreads();
  uint16_t* const to = p.dqkv + at.Qkv(first_key) + first_column;
  const int num_rows = p.seq_length - first_key, num_columns = p.head_dim - first_column;
  StoreTile<Shape::kColumns, Shape::kRows, Shape::kThreads>(to + p.head_dim, at.qkv_row, num_rows,
                                                            tiles.key, num_columns);
  StoreTile<Shape::kColumns, Shape::kRows, Shape::kThreads>(to + 2 * p.head_dim, at.qkv_row,
                                                            num_rows, tiles.value, num_columns);
}

}  // namespace sepia::kernels::cuda
