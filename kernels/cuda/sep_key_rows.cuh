// Blocks that own keys (dk, dv): which queries see each of their rows.
#pragma once

#include "kernels/cuda/sep_tiles.cuh"

namespace sepia::kernels::cuda {

// Which queries see a key row: [Low, High). Rows count from the block's first key; those of packed
// keys wait in shared memory.
template <bool kFar>
struct KeyRows {
  int first_key, num_keys;
  int window, seq_length;
  int* lows;  // far only

  SEPIA_DEVICE KeyRows(const SepAttentionParams& p, int batch, int first, int* shared_lows)
      : first_key(first), window(p.window), seq_length(p.seq_length), lows(shared_lows) {
    num_keys = kFar ? LoadGlobal(p.num_packed + batch) : p.seq_length;
  }
  // To be followed by a barrier. Returns Low(0) at once.
  template <int kRows>
  SEPIA_DEVICE int StoreLows(const SepAttentionParams& p, int batch) const {
    if constexpr (!kFar) return first_key;
    const int32_t* positions = p.positions + static_cast<int64_t>(batch) * p.max_packed;
    const int key = Min(first_key + ThreadIndex(), num_keys - 1);
    if (ThreadIndex() < kRows) {
      StoreShared(lows + ThreadIndex(), LoadGlobal(positions + key) + window);
    }
    return LoadGlobal(positions + first_key) + window;
  }
  SEPIA_DEVICE int Low(int row) const { return kFar ? LoadShared(lows + row) : first_key + row; }
  SEPIA_DEVICE int High(int row) const {
    return kFar ? seq_length : Min(seq_length, first_key + row + window);
  }
  SEPIA_DEVICE int NumRows() const { return num_keys - first_key; }
};

// What the rows of one warp see of a tile of queries.
template <int kRowTiles, int kQueries>
struct QueryView {
  int low[kRowTiles], high[kRowTiles];  // no row of a block of 16 is seen outside [low, high)
  bool any, all;                        // any query sees any row; all queries see all rows

  template <bool kFar>
  SEPIA_DEVICE QueryView(const KeyRows<kFar>& keys, int first, int base) : any(false), all(true) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const int begin = first + m * 16, last = Min(begin + 15, keys.NumRows() - 1);
      low[m] = high[m] = 0;
      all = all && last == begin + 15;
      if (last < begin) continue;
      low[m] = keys.Low(begin);
      high[m] = keys.High(last);
      any = any || (base < high[m] && base + kQueries > low[m]);
      all = all && keys.Low(last) <= base && base + kQueries <= keys.High(begin);
    }
  }
  // Whether one of the queries [query, query + 16) sees a row of block m.
  SEPIA_DEVICE bool Active(int m, int query) const {
    return query < high[m] && query + 16 > low[m];
  }
};

}  // namespace sepia::kernels::cuda
