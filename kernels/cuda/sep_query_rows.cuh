// Blocks that own query rows (forward, dq): which key tiles they visit and which columns of a tile
// each row sees.
#pragma once

#include "kernels/cuda/sep_tiles.cuh"

namespace sepia::kernels::cuda {

// far(i): how many packed keys row i sees; rows past the end count as the last.
SEPIA_DEVICE int FarKeys(const SepAttentionParams& p, const int32_t* count, int row) {
  const int i = Min(row, p.seq_length - 1) - p.window;
  return i >= 0 ? LoadGlobal(count + i) : 0;
}

// Tiles in the order of the loop: the band from the diagonal down, so that every row has met a
// visible key before its first packed one, then the packed keys from the last.
template <int kKeys>
struct KeyTiles {
  int last_band, num_band, num_far_keys, num_far;

  SEPIA_DEVICE KeyTiles(const SepAttentionParams& p, const int32_t* count, int first_row,
                        int num_rows) {
    const int last_row = Min(first_row + num_rows, p.seq_length) - 1;
    last_band = last_row / kKeys;
    num_band = last_band - Max(0, first_row - p.window + 1) / kKeys + 1;
    num_far_keys = FarKeys(p, count, last_row);
    num_far = CeilDiv(num_far_keys, kKeys);
  }
  SEPIA_DEVICE int size() const { return num_band + num_far; }
  SEPIA_DEVICE bool IsBand(int t) const { return t < num_band; }
  // First key of tile t, among all keys or among the packed ones.
  SEPIA_DEVICE int Base(int t) const {
    return (IsBand(t) ? last_band - t : num_far - 1 - (t - num_band)) * kKeys;
  }
};

// Fetches key tiles and their values from the band or the packed rows.
template <int kDim, int kKeys, int kThreads>
struct KeyLoader {
  const SepAttentionParams& p;
  const KeyTiles<kKeys>& tiles;
  const uint16_t* band_keys;  // values one head_dim further
  int band_stride;
  int64_t packed;

  SEPIA_DEVICE KeyLoader(const SepAttentionParams& params, const KeyTiles<kKeys>& key_tiles,
                         const HeadOffsets& at)
      : p(params),
        tiles(key_tiles),
        band_keys(params.qkv + at.qkv + params.head_dim),
        band_stride(at.qkv_row),
        packed(at.packed) {}

  SEPIA_DEVICE void Load(int t, uint16_t* keys, uint16_t* values) const {
    const bool band = tiles.IsBand(t);
    const int base = tiles.Base(t);
    const int stride = band ? band_stride : p.head_dim;
    const int num_rows = band ? p.seq_length - base : tiles.num_far_keys - base;
    const int64_t from = static_cast<int64_t>(base) * stride;
    const uint16_t* k = band ? band_keys : p.packed_keys + packed;
    const uint16_t* v = band ? band_keys + p.head_dim : p.packed_values + packed;
    LoadTile<kDim, kKeys, kThreads>(keys, {k + from, stride, num_rows}, p.head_dim);
    LoadTile<kDim, kKeys, kThreads>(values, {v + from, stride, num_rows}, p.head_dim);
  }
};

// The rows of one warp: kRowTiles blocks of 16. A thread owns rows g and g + 8 of each. How many
// packed keys each row sees waits in shared memory: registers are short, and tiles that some row
// sees in part are rare.
template <int kRowTiles>
struct QueryRows {
  int first;
  const int* far;  // of the warp's rows
  int window, seq_length;

  // Row r = 2 m + half of the thread, counted from `first`.
  static SEPIA_DEVICE int InWarp(int r) {
    return (r >> 1) * 16 + (r & 1) * 8 + ((ThreadIndex() & 31) >> 2);
  }
  SEPIA_DEVICE int Row(int r) const { return first + InWarp(r); }

  // Fills `far` for all rows of a block; to be followed by a barrier.
  template <int kRows>
  static SEPIA_DEVICE void StoreFar(const SepAttentionParams& p, const int32_t* count,
                                    int first_row, int* far) {
    if (ThreadIndex() < kRows) {
      StoreShared(far + ThreadIndex(), FarKeys(p, count, first_row + ThreadIndex()));
    }
  }
};

// What a warp sees of one key tile. Columns count from the tile's first key.
template <int kRowTiles, int kKeys>
struct TileView {
  bool band;
  int base;
  int low[kRowTiles], high[kRowTiles];  // a block of 16 rows sees nothing outside [low, high)
  bool any, all;                        // any row sees any column; all rows see all columns

  SEPIA_DEVICE TileView(const QueryRows<kRowTiles>& rows, bool is_band, int tile_base)
      : band(is_band), base(tile_base), any(false), all(true) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const int first = rows.first + m * 16, last = Min(first + 15, rows.seq_length - 1);
      low[m] = band ? first - rows.window + 1 - base : 0;
      high[m] = band ? last + 1 - base : LoadShared(rows.far + m * 16 + 15) - base;
      if (first >= rows.seq_length) high[m] = low[m] = 0;
      const int inner_low = band ? last - rows.window + 1 - base : 0;
      const int inner_high = band ? first + 1 - base : LoadShared(rows.far + m * 16) - base;
      any = any || (high[m] > 0 && low[m] < kKeys && low[m] < high[m]);
      all = all && inner_low <= 0 && inner_high >= kKeys && low[m] < high[m];
    }
  }
  // Whether rows of block m see one of the columns [16 g, 16 g + 16).
  SEPIA_DEVICE bool Active(int m, int g) const { return g * 16 < high[m] && g * 16 + 16 > low[m]; }
  // The columns that row r of the thread sees, shifted so that its own first column is 0.
  SEPIA_DEVICE int Low(const QueryRows<kRowTiles>& rows, int r) const {
    return (band ? rows.Row(r) - rows.window + 1 - base : 0) - (ThreadIndex() & 3) * 2;
  }
  SEPIA_DEVICE int High(const QueryRows<kRowTiles>& rows, int r) const {
    return (band ? rows.Row(r) + 1 : LoadShared(rows.far + rows.InWarp(r))) - base -
           (ThreadIndex() & 3) * 2;
  }
};

// The warp visits all tiles in order, two buffers of kKeyElements for keys and for values: while
// one is read, the next tile is on its way to the other. Tile 0 and the block's rows have been
// asked for and committed before; start() runs once they are there. Tiles that all rows see whole
// are visited without masks.
template <int kKeyElements, int kRowTiles, int kKeys, typename Loader, typename Warp,
          typename Start>
SEPIA_DEVICE void SweepKeyTiles(const KeyTiles<kKeys>& tiles, const Loader& loader,
                                const QueryRows<kRowTiles>& rows, uint16_t* key_tiles,
                                uint16_t* value_tiles, float scale_log2, Warp& warp,
                                const Start& start) {
  for (int t = 0; t < tiles.size(); ++t) {
    AsyncWait<0>();
    SyncThreads();  // tile t has arrived; nobody reads tile t - 1 any more
    if (t == 0) start();
    const int current = (t & 1) * kKeyElements;
    const int next = kKeyElements - current;
    if (t + 1 < tiles.size()) loader.Load(t + 1, key_tiles + next, value_tiles + next);
    AsyncCommit();
    const TileView<kRowTiles, kKeys> view(rows, tiles.IsBand(t), tiles.Base(t));
    if (view.all) {
      warp.template Visit<false>(view, rows, key_tiles + current, value_tiles + current,
                                 scale_log2);
    } else if (view.any) {
      warp.template Visit<true>(view, rows, key_tiles + current, value_tiles + current, scale_log2);
    }
  }
}

}  // namespace sepia::kernels::cuda
