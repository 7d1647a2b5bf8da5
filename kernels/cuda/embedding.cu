#include "kernels/cuda/dense_ops.cuh"
#include "kernels/cuda/model_ops.h"

namespace sepia::kernels::cuda {
namespace {

template <typename Format>
struct GatherRowsOp {
  using T = Storage<Format>;
  int64_t rows, columns;
  EmbeddingParams p;

  SEPIA_DEVICE void Chunk(int64_t row, int64_t column, int count) const {
    const int64_t from = LoadGlobal(p.tokens + row) - p.first;
    float values[kChunk] = {};
    if (from >= 0 && from < p.vocab_rows) {
      LoadChunk<Format>(values, static_cast<const T*>(p.table) + from * columns + column, count);
    }
    StoreChunk<Format>(static_cast<T*>(p.y) + row * columns + column, values, count);
  }
};

// A token's row and a place in one number: sorting these sorts by token, then by place.
SEPIA_DEVICE uint64_t KeyOf(int64_t row, int64_t place) {
  return static_cast<uint64_t>(row) << 32 | static_cast<uint64_t>(place);
}
SEPIA_DEVICE int64_t RowOf(uint64_t key) { return static_cast<int64_t>(key >> 32); }
SEPIA_DEVICE int64_t PlaceOf(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

SEPIA_KERNEL(kDenseThreads, 1) MakeKeys(const EmbeddingParams p) {
  const int64_t place = static_cast<int64_t>(BlockIndexX()) * kDenseThreads + ThreadIndex();
  if (place >= p.places) return;
  const int64_t row = LoadGlobal(p.tokens + place) - p.first;
  // Tokens of other parts come last.
  const bool is_ours = row >= 0 && row < p.vocab_rows;
  StoreGlobal(p.keys[0] + place, KeyOf(is_ours ? row : p.vocab_rows, place));
}

struct MergeParams {
  int64_t size, run;  // sorted runs of `run` keys become runs of twice as many
  const uint64_t* from;
  uint64_t* to;
};

// No two keys are equal: a key's place in the merged run is its place in its own run and the number
// of smaller keys in the other.
SEPIA_KERNEL(kDenseThreads, 1) MergeRuns(const MergeParams p) {
  const int64_t i = static_cast<int64_t>(BlockIndexX()) * kDenseThreads + ThreadIndex();
  if (i >= p.size) return;
  const uint64_t key = LoadGlobal(p.from + i);
  const int64_t run = i / p.run, begin = run * p.run;
  const int64_t other = (run ^ 1) * p.run;
  int64_t low = other < p.size ? other : p.size;
  int64_t high = other + p.run < p.size ? other + p.run : p.size;
  const int64_t start = low;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (LoadGlobal(p.from + middle) < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int64_t first = begin < other ? begin : other;
  StoreGlobal(p.to + first + (i - begin) + (low - start), key);
}

// The first of a token's keys adds up all of its rows, eight columns a thread.
template <typename Format>
struct SumRowsOp {
  using T = Storage<Format>;
  int64_t rows, columns;  // rows: keys
  EmbeddingParams p;
  const uint64_t* keys;

  SEPIA_DEVICE void Chunk(int64_t i, int64_t column, int count) const {
    const int64_t row = RowOf(LoadGlobal(keys + i));
    if (row == p.vocab_rows || (i > 0 && RowOf(LoadGlobal(keys + i - 1)) == row)) return;
    float* to = p.dtable + row * columns + column;
    float sum[kChunk], values[kChunk];
    LoadChunk<Fp32>(sum, to, count);  // zero unless gradients accumulate
    for (int64_t n = i; n < rows; ++n) {
      const uint64_t key = LoadGlobal(keys + n);
      if (RowOf(key) != row) break;
      LoadChunk<Format>(values, static_cast<const T*>(p.dy) + PlaceOf(key) * columns + column,
                        count);
      for (int c = 0; c < kChunk; ++c) sum[c] += values[c];
    }
    StoreChunk<Fp32>(to, sum, count);
  }
};

}  // namespace

void EmbeddingForward(Stream& stream, const EmbeddingParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    LaunchChunks(stream, "EmbeddingForward",
                 GatherRowsOp<decltype(format)>{p.places, p.columns, p});
  });
}

void EmbeddingBackward(Stream& stream, const EmbeddingParams& p) {
  if (!p.add) {
    SetBytes(stream, p.dtable, 0, static_cast<size_t>(p.vocab_rows * p.columns) * sizeof(float));
  }
  const LaunchShape by_place = {
      .name = "MakeKeys", .grid = {DivideUp(p.places, kDenseThreads)}, .block = kDenseThreads};
  Launch(stream, by_place, &MakeKeys, p);
  int sorted = 0;
  for (int64_t run = 1; run < p.places; run *= 2) {
    LaunchShape shape = by_place;
    shape.name = "MergeRuns";
    Launch(stream, shape, &MergeRuns, {p.places, run, p.keys[sorted], p.keys[1 - sorted]});
    sorted = 1 - sorted;
  }
  DispatchFormat(p.dtype, [&](auto format) {
    LaunchChunks(stream, "EmbeddingBackward",
                 SumRowsOp<decltype(format)>{p.places, p.columns, p, p.keys[sorted]});
  });
}

}  // namespace sepia::kernels::cuda
