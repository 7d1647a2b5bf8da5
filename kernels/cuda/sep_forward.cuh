// Forward: one block owns kWarps * kRowTiles * 16 query rows of one head and visits its key tiles
// with an online softmax (FlashAttention-2), keys and values double-buffered by cp.async.
#pragma once

#include "kernels/cuda/sep_query_rows.cuh"

namespace sepia::kernels::cuda {

template <int kDim>
struct ForwardShape {
  static constexpr int kWarps = kDim == 256 ? 8 : 4;
  static constexpr int kRowTiles = kDim == 256 ? 1 : 2;
  static constexpr int kKeys = kDim <= 64 ? 64 : 32;
  // Registers hold out, scores and, where they fit, the query rows; else these are read again.
  static constexpr bool kQueryInRegisters = kDim <= 80;
  static constexpr int kBlocksPerMultiprocessor = kDim == 256 ? 1 : 2;

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr int kKeyElements = kKeys * Tile<kDim>::kRowElements;
  static constexpr int kQueryElements = kRows * Tile<kDim>::kRowElements;
  static constexpr int kSharedBytes = (kQueryElements + 4 * kKeyElements) * 2 + kRows * 4;
};

template <typename Format, int kDim>
struct ForwardWarp {
  using Shape = ForwardShape<kDim>;
  static constexpr int kRowTiles = Shape::kRowTiles, kKeys = Shape::kKeys;
  static constexpr int kGroups = kKeys / 16;  // of columns
  using View = TileView<kRowTiles, kKeys>;
  using Scores = float[kRowTiles][kKeys / 8][4];

  RowOperand<kDim, kRowTiles, Shape::kQueryInRegisters> query;
  float maximum[2 * kRowTiles], sum[2 * kRowTiles];
  float out[kRowTiles][kDim / 8][4];

  SEPIA_DEVICE void Start(const uint16_t* rows_of_warp) {
    query.Start(rows_of_warp);
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      maximum[r] = kMinusInfinity;
      sum[r] = 0;
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) SetZero(out[m]);
  }

  // kEdge: some row does not see some column.
  template <bool kEdge>
  SEPIA_DEVICE void Visit(const View& view, const QueryRows<kRowTiles>& rows, const uint16_t* keys,
                          const uint16_t* values, float scale_log2) {
    Scores s;
    Multiply<kEdge>(view, keys, s);
    if constexpr (kEdge) Mask(view, rows, s);
    Softmax<kEdge>(s, scale_log2);
    Accumulate<kEdge>(view, values, s);
  }

  template <bool kEdge>
  SEPIA_DEVICE void Multiply(const View& view, const uint16_t* keys, Scores& s) const {
    const auto lane = LaneRows<kDim>::ByColumn();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) SetZero(s[m]);
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) query.Get(a[m], m, k);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        if (kEdge && !AnyActive(view, g)) continue;
        uint32_t b[4];
        LoadMatrices(b, lane.At(keys, g * 16, k));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          if (kEdge && !view.Active(m, g)) continue;
          MultiplyAdd(Format{}, s[m][2 * g], a[m], b);
          MultiplyAdd(Format{}, s[m][2 * g + 1], a[m], b + 2);
        }
      }
    }
  }

  static SEPIA_DEVICE bool AnyActive(const View& view, int g) {
    bool any = false;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) any = any || view.Active(m, g);
    return any;
  }

  SEPIA_DEVICE void Mask(const View& view, const QueryRows<kRowTiles>& rows, Scores& s) const {
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const int low = view.Low(rows, r), high = view.High(rows, r);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = n * 8 + e;
          if (column < low || column >= high) s[r >> 1][n][(r & 1) * 2 + e] = kMinusInfinity;
        }
      }
    }
  }

  // Scores become probabilities relative to the running maximum; what was summed is rescaled.
  template <bool kEdge>
  SEPIA_DEVICE void Softmax(Scores& s, float scale_log2) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 2 * m + half, e0 = 2 * half, e1 = 2 * half + 1;
        float high = maximum[r];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) high = fmaxf(high, fmaxf(s[m][n][e0], s[m][n][e1]));
        high = fmaxf(high, ShuffleXor(high, 1));
        high = fmaxf(high, ShuffleXor(high, 2));
        // A row that has seen nothing yet keeps zero sums: 2^(-inf - 0).
        const float shift = kEdge && high == kMinusInfinity ? 0.0f : high * scale_log2;
        const float rescale = Exp2(maximum[r] * scale_log2 - shift);
        maximum[r] = high;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          s[m][n][e0] = Exp2(s[m][n][e0] * scale_log2 - shift);
          s[m][n][e1] = Exp2(s[m][n][e1] * scale_log2 - shift);
          added += s[m][n][e0] + s[m][n][e1];
        }
        sum[r] = sum[r] * rescale + added;
#pragma unroll
        for (int d = 0; d < kDim / 8; ++d) {
          out[m][d][e0] *= rescale;
          out[m][d][e1] *= rescale;
        }
      }
    }
  }

  template <bool kEdge>
  SEPIA_DEVICE void Accumulate(const View& view, const uint16_t* values, const Scores& s) {
    const auto lane = LaneRows<kDim>::ByRow();
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (kEdge && !AnyActive(view, g)) continue;
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        AccumulatorsToOperand<Format>(a[m], s[m][2 * g], s[m][2 * g + 1]);
      }
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        LoadMatricesTransposed(b, lane.At(values, g * 16, d));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          if (kEdge && !view.Active(m, g)) continue;
          MultiplyAdd(Format{}, out[m][2 * d], a[m], b);
          MultiplyAdd(Format{}, out[m][2 * d + 1], a[m], b + 2);
        }
      }
    }
  }

  // Normalises, writes lse, and leaves the rows of the warp in `tile`.
  SEPIA_DEVICE void Finish(const QueryRows<kRowTiles>& rows, float scale_log2, float* lse,
                           uint16_t* tile) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 2 * m + half;
        float total = sum[r];
        total += ShuffleXor(total, 1);
        total += ShuffleXor(total, 2);
        factor[half] = 1.0f / total;
        if ((ThreadIndex() & 3) == 0 && rows.Row(r) < rows.seq_length) {
          StoreGlobal(lse + rows.Row(r), (maximum[r] * scale_log2 + Log2(total)) * kLn2);
        }
      }
      AccumulatorToTile<Format, kDim>(tile, m * 16, out[m], factor);
    }
  }
};

// Grid: x = batch * heads + head, y = query tile, the last (longest) first.
template <typename Format, int kDim>
SEPIA_KERNEL(ForwardShape<kDim>::kThreads, ForwardShape<kDim>::kBlocksPerMultiprocessor)
SepForward(const SepAttentionParams p) {
  using Shape = ForwardShape<kDim>;
  auto* query_tile = reinterpret_cast<uint16_t*>(SharedMemory());
  uint16_t* const key_tiles = query_tile + Shape::kQueryElements;
  uint16_t* const value_tiles = key_tiles + 2 * Shape::kKeyElements;
  int* const far = reinterpret_cast<int*>(value_tiles + 2 * Shape::kKeyElements);

  const int batch = BlockIndexX() / p.num_heads, head = BlockIndexX() % p.num_heads;
  const int first_row = (GridSizeY() - 1 - BlockIndexY()) * Shape::kRows;
  const HeadOffsets at(p, batch, head);
  const int32_t* count = p.count + static_cast<int64_t>(batch) * p.seq_length;
  const KeyTiles<Shape::kKeys> tiles(p, count, first_row, Shape::kRows);
  const KeyLoader<kDim, Shape::kKeys, Shape::kThreads> loader(p, tiles, at);

  LoadTile<kDim, Shape::kRows, Shape::kThreads>(
      query_tile, {p.qkv + at.Qkv(first_row), at.qkv_row, p.seq_length - first_row}, p.head_dim);
  loader.Load(0, key_tiles, value_tiles);
  AsyncCommit();

  const int first_of_warp = ThreadIndex() / 32 * Shape::kRowTiles * 16;
  uint16_t* const warp_tile = query_tile + first_of_warp * Tile<kDim>::kRowElements;
  const QueryRows<Shape::kRowTiles> rows = {first_row + first_of_warp, far + first_of_warp,
                                            p.window, p.seq_length};
  rows.template StoreFar<Shape::kRows>(p, count, first_row, far);
  const float scale_log2 = p.scale * kLog2E;
  ForwardWarp<Format, kDim> warp;
  SweepKeyTiles<Shape::kKeyElements>(tiles, loader, rows, key_tiles, value_tiles, scale_log2, warp,
                                     [&] { warp.Start(warp_tile); });
  SyncThreads();  // the query tile becomes the output tile
  warp.Finish(rows, scale_log2, p.lse + at.rows, warp_tile);
  SyncThreads();
  StoreTile<kDim, Shape::kRows, Shape::kThreads>(p.out + at.Out(first_row), at.out_row,
                                                 p.seq_length - first_row, query_tile, p.head_dim);
}

}  // namespace sepia::kernels::cuda
