// What the forward and the backward sweep of Sep-Attention share: loading rows and chunks, and the
// interval of keys that each query of a tile sees in a chunk. For the files of this folder only.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/isa/attention_operands.h"
#include "kernels/cpu/isa/sep_attention.h"
#include "kernels/cpu/isa/transpose.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

// 1 / sqrt(D), the factor of every score.
inline float ScoreScale(const AttentionHead& head) {
  return 1.0f / __builtin_sqrtf(static_cast<float>(head.head_dim));
}

inline int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Chunks of a task, in slots.
inline int64_t NumSlots(const AttentionSegment& segment) {
  return segment.ring_chunks + (segment.num_packed + kChunkKeys - 1) / kChunkKeys;
}

// Cuts the workspace of a task into arrays.
class Workspace {
 public:
  explicit Workspace(float* begin) : next_(begin) {}
  float* Take(int64_t num_floats) {
    float* taken = next_;
    next_ += num_floats;
    return taken;
  }

 private:
  float* next_;
};

inline const char* RowAt(const void* base, int64_t row, int64_t row_bytes) {
  return static_cast<const char*>(base) + row * row_bytes;
}
inline char* RowAt(void* base, int64_t row, int64_t row_bytes) {
  return static_cast<char*>(base) + row * row_bytes;
}
inline int64_t ElementBytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Part 0, 1, 2 = q, k, v of a row of qkv or dqkv.
inline const char* QkvRow(const AttentionHead& head, int64_t row, int part) {
  return RowAt(head.qkv, row, head.qkv_row_bytes) + part * head.head_dim * ElementBytes(head.dtype);
}
inline char* GradientRow(const AttentionHead& head, void* dqkv, int64_t row, int part) {
  return RowAt(dqkv, row, head.qkv_row_bytes) + part * head.head_dim * ElementBytes(head.dtype);
}

// Cells of a row.
inline int64_t RowCells(const AttentionHead& head) { return head.padded_dim / kPair; }
inline Number* Numbers(float* cells) { return reinterpret_cast<Number*>(cells); }
inline const Number* Numbers(const float* cells) { return reinterpret_cast<const Number*>(cells); }

inline void ZeroFill(float* to, int64_t num_floats) {
  std::memset(to, 0, static_cast<size_t>(num_floats) * sizeof(float));
}

// Rows row_of(0) ... row_of(count - 1) as numbers [count, padded_dim], the padding zero. Returns
// whether all numbers are finite.
template <typename RowOf>
inline bool LoadRows(const AttentionHead& head, int64_t count, const RowOf& row_of, float* to) {
  const int64_t padding = head.padded_dim - head.head_dim;
  Vec zero_times_all = Zero();  // NaN once a number is not finite
  for (int64_t i = 0; i < count; ++i) {
    Number* row = Numbers(to + i * RowCells(head));
    LoadNumbers(head.dtype, row_of(i), head.head_dim, row);
    if (padding > 0) {
      std::memset(static_cast<void*>(row + head.head_dim), 0,
                  static_cast<size_t>(padding) * sizeof(Number));
    }
    for (int64_t d = 0; d < head.padded_dim; d += kLanes) {
      zero_times_all = Fma(Load(row + d), Zero(), zero_times_all);
    }
  }
  return Sum(zero_times_all) == 0.0f;
}

template <typename T>
inline void StoreScaled(const float* row, Vec factor, int64_t size, bool stream, T* to) {
  int64_t d = 0;
  if (stream) {
    for (; d < size; d += kLanes) Stream(to + d, Load(row + d) * factor);
    return;
  }
  for (; d + kLanes <= size; d += kLanes) Store(to + d, Load(row + d) * factor);
  if (d < size) StoreN(to + d, Load(row + d) * factor, size - d);
}

// factor * row, rounded once.
inline void StoreRow(const AttentionHead& head, const float* row, float factor, void* to) {
  const Vec f = Set(factor);
  switch (head.dtype) {
    case DType::kBFloat16:
      return StoreScaled(row, f, head.head_dim, head.stream, static_cast<BFloat16*>(to));
    case DType::kFloat16:
      return StoreScaled(row, f, head.head_dim, head.stream, static_cast<Float16*>(to));
    default: return StoreScaled(row, f, head.head_dim, head.stream, static_cast<float*>(to));
  }
}

// Keys [begin, begin + size) of a list: positions[...] or, without positions, the numbers
// themselves.
struct KeyRange {
  const int32_t* positions;
  int64_t begin;
  int64_t size;  // 1 ... kChunkKeys

  int64_t operator[](int64_t i) const {
    return positions == nullptr ? begin + i : positions[begin + i];
  }
  // Rows to fill, so that the last panel holds numbers.
  int64_t padded_size() const { return (size + kLanes - 1) / kLanes * kLanes; }
};

inline KeyRange BandChunk(const AttentionHead& head, int64_t chunk) {
  const int64_t begin = chunk * kChunkKeys;
  return {nullptr, begin, Smaller(kChunkKeys, head.seq_length - begin)};
}
// Packed keys are loaded this many at a time, when the first of them comes into sight: their rows
// are in the caches by then, because the band has read them.
inline constexpr int64_t kPackedKeys = 16;
static_assert(kChunkKeys % kPackedKeys == 0 && kPackedKeys % kLanes == 0);

inline KeyRange PackedKeys(const AttentionHead& head, int64_t num_packed, int64_t begin) {
  return {head.positions, begin, Smaller(kPackedKeys, num_packed - begin)};
}
inline KeyRange PackedChunk(const AttentionHead& head, int64_t num_packed, int64_t chunk) {
  const int64_t begin = chunk * kChunkKeys;
  return {head.positions, begin, Smaller(kChunkKeys, num_packed - begin)};
}

// Rows of part k or v as numbers [padded_size, padded_dim]. Returns whether all are finite.
inline bool LoadKeyRows(const AttentionHead& head, const KeyRange& keys, int part, float* to) {
  const int64_t padding = keys.padded_size() - keys.size;
  ZeroFill(to + keys.size * RowCells(head), padding * RowCells(head));
  return LoadRows(
      head, keys.size, [&](int64_t i) { return QkvRow(head, keys[i], part); }, to);
}

// Panels [RowCells][kLanes], one after the other, from such rows.
inline void TransposeKeys(const AttentionHead& head, const KeyRange& keys, const float* rows,
                          float* panels) {
  const int64_t cells = RowCells(head);
  for (int64_t key = 0; key < keys.size; key += kLanes) {
    Transpose(rows + key * cells, kLanes, cells, panels + key * cells, kLanes);
  }
}

// Query i takes its first far(i) packed keys.
inline int64_t FarCount(const AttentionHead& head, int64_t query) {
  if (head.count == nullptr || query < head.window) return 0;
  return head.count[query - head.window];
}

// Queries [begin, begin + size) of a tile.
struct QueryTile {
  int64_t begin;
  int64_t size;  // 1 ... kTileQueries
};

// Asks for the rows of the next tile while this one is computed, a few at a time: the rows of a
// head lie thousands of bytes apart, which no hardware prefetcher follows.
class RowPrefetch {
 public:
  // Rows of `row_bytes` bytes, `stride` apart.
  struct Rows {
    const void* base;
    int64_t stride, row_bytes;
  };

  void Start(const AttentionSegment& segment, const QueryTile& tile) {
    next_ = tile.begin + tile.size;
    end_ = Smaller(next_ + kTileQueries, segment.end);
  }
  template <int kArrays>
  void Some(int64_t count, const Rows (&arrays)[kArrays]) {
    const int64_t end = Smaller(next_ + count, end_);
    for (; next_ < end; ++next_) {
      for (const Rows& rows : arrays) {
        const char* row = RowAt(rows.base, next_, rows.stride);
        for (int64_t at = 0; at < rows.row_bytes; at += 64) _mm_prefetch(row + at, _MM_HINT_T1);
      }
    }
  }

 private:
  int64_t next_ = 0;
  int64_t end_ = 0;
};

// q, k and v of a row.
inline RowPrefetch::Rows QkvRows(const AttentionHead& head) {
  return {head.qkv, head.qkv_row_bytes, 3 * head.head_dim * ElementBytes(head.dtype)};
}

// A register block of sums: kBlockRows rows of up to kMaxVecs vectors fit beside their operands
// into 32 (avx512) or 16 (avx2) registers.
inline constexpr int kBlockRows = 6;
inline constexpr int kMaxVecs = kLanes == 16 ? 4 : 2;
// Panels that are multiplied with all queries of a tile in turn: small enough to stay in L1.
inline constexpr int kGroupKeys = 48;
static_assert(kTileQueries % kBlockRows == 0 && kChunkKeys % kBlockRows == 0);
static_assert(kBlockRows % kPair == 0);
static_assert(kGroupKeys % kLanes == 0 && kChunkKeys % kGroupKeys == 0);

// Keys [low, high) of a chunk that each query of a tile sees; both ascend with the query. Queries
// beyond the tile's size see none.
struct VisibleKeys {
  int32_t low[kTileQueries];
  int32_t high[kTileQueries];

  void Set(int64_t query, int64_t first, int64_t last) {
    low[query] = static_cast<int32_t>(Smaller(Larger(first, 0), kChunkKeys));
    high[query] = static_cast<int32_t>(Smaller(Larger(last, 0), kChunkKeys));
  }
  void HideFrom(int64_t size) {
    for (int64_t r = size; r < kTileQueries; ++r) low[r] = high[r] = high[size - 1];
  }
};

// A block of kBlockRows queries against a chunk: the keys that any of them sees, and the whole
// vectors around them.
struct BlockSpan {
  int32_t low, high;
  int32_t vector_low, vector_high;
  int32_t full_low, full_high;  // every query of the block sees these

  BlockSpan(const VisibleKeys& visible, int64_t first_query)
      : low(visible.low[first_query]),
        high(visible.high[first_query + kBlockRows - 1]),
        vector_low(low / kLanes * kLanes),
        vector_high((high + kLanes - 1) / kLanes * kLanes),
        full_low(visible.low[first_query + kBlockRows - 1]),
        full_high(visible.high[first_query]) {}
  bool empty() const { return low >= high; }
  bool IsFull(int64_t key, int num_vecs) const {
    return full_low <= key && key + num_vecs * kLanes <= full_high;
  }
};

// A number of vectors that the compiler knows.
template <int kVecs>
struct VecCount {};

// fn(first, VecCount) over vectors [begin, end), kMaxVecs at a time; a single one, which cannot
// keep the multipliers busy, only where it cannot be avoided.
template <typename Fn>
inline void ForVectorGroups(int64_t begin, int64_t end, const Fn& fn) {
  int64_t at = begin;
  if constexpr (kMaxVecs == 4) {
    for (; end - at >= 7 || end - at == 4; at += 4) fn(at, VecCount<4>());
    for (; end - at >= 3; at += 3) fn(at, VecCount<3>());
  }
  for (; end - at >= 2; at += 2) fn(at, VecCount<2>());
  if (at < end) fn(at, VecCount<1>());
}

// Whether some query of the block does not see some key of the group.
struct Masked {
  static constexpr bool kMasked = true;
};
struct Unmasked {
  static constexpr bool kMasked = false;
};

// fn(first query, BlockSpan) for the blocks of a tile.
template <typename Fn>
inline void ForEachBlock(const VisibleKeys& visible, const Fn& fn) {
  for (int64_t first = 0; first < kTileQueries; first += kBlockRows) {
    fn(first, BlockSpan(visible, first));
  }
}

// All queries of a tile against the panels of a chunk that they see: finish(r, key, sums, VecCount,
// Masked or Unmasked) takes the sums start(r) + row r of columns^T panels, kVecs vectors of them,
// for keys key, key + 1, ... `columns` is the transposed tile [RowCells][kTileQueries].
template <typename Start, typename Finish>
inline void MultiplyScores(const AttentionHead& head, const VisibleKeys& visible,
                           const float* columns, const float* panels, const Start& start,
                           const Finish& finish) {
  const int64_t cells = RowCells(head);
  const int64_t steps = (head.head_dim + kPair - 1) / kPair;
  const VectorStrides strides = {kLanes, cells * kLanes};
  for (int64_t group = 0; group < kChunkKeys; group += kGroupKeys) {
    ForEachBlock(visible, [&](int64_t first, const BlockSpan& span) {
      if (span.empty()) return;
      const int64_t begin = Larger(span.vector_low, group) / kLanes;
      const int64_t end = Smaller(span.vector_high, group + kGroupKeys) / kLanes;
      ForVectorGroups(begin, end, [&]<int kVecs>(int64_t panel, VecCount<kVecs> vecs) {
        const int64_t key = panel * kLanes;
        const auto multiply = [&](auto mode) {
          MultiplyBlock<kBlockRows, kVecs, 1, kTileQueries, Multiply>(
              steps, columns + first, panels + key * cells, strides,
              [&](int r, int) { return start(first + r); },
              [&](int r, const Vec* sums) { finish(first + r, key, sums, vecs, mode); });
        };
        if (span.IsFull(key, kVecs)) {
          multiply(Unmasked());
        } else {
          multiply(Masked());
        }
      });
    });
  }
}

// Zeroes the vectors beside what MultiplyScores computed of scores [kTileQueries / kPair,
// kChunkKeys]. From query to query an interval moves by one key at most, so that blocks of keys
// that lie across its panels read no further.
inline void ZeroBeside(const VisibleKeys& visible, float* scores) {
  ForEachBlock(visible, [&](int64_t first, const BlockSpan& span) {
    for (int64_t r = first; r < first + kBlockRows; r += kPair) {
      float* row = scores + r / kPair * kChunkKeys;
      if (span.vector_low > 0) Store(row + span.vector_low - kLanes, Zero());
      if (span.vector_high < kChunkKeys) Store(row + span.vector_high, Zero());
    }
  });
}

// c [kBlockRows, dim] += a b over `steps` rows of b [., dim].
template <int kRowStride, int kStepStride>
inline void AddProduct(int64_t steps, const float* a, const float* b, int64_t dim, float* c) {
  ForVectorGroups(0, dim / kLanes, [&]<int kVecs>(int64_t vec, VecCount<kVecs>) {
    float* to = c + vec * kLanes;
    MultiplyBlock<kBlockRows, kVecs, kRowStride, kStepStride, Multiply>(
        steps, a, b + vec * kLanes, {dim, kLanes},
        [&](int r, int v) { return Load(to + r * dim + v * kLanes); },
        [&](int r, const Vec* sums) {
          for (int v = 0; v < kVecs; ++v) Store(to + r * dim + v * kLanes, sums[v]);
        });
  });
}

// AddProduct takes hidden pairs along as zeros, which gives NaN where the other factor is not
// finite. Where there is such a number: c [dim] += sum over k in [begin, end) of factor(k) times
// row k of `rows` [., dim], paired, one after the other.
template <typename Factor>
inline void AddVisibleRows(int64_t begin, int64_t end, const Factor& factor, const float* rows,
                           int64_t dim, float* c) {
  for (int64_t k = begin; k < end; ++k) {
    const Vec f = Set(ToFloat(factor(k)));
    const float* row = rows + k / kPair * dim;
    for (int64_t d = 0; d < dim; d += kLanes) {
      Store(c + d, Fma(f, NumbersOf(Load(row + d), k % kPair), Load(c + d)));
    }
  }
}
// The same for every query of a tile: sums [kTileQueries, dim] += coefficients [kTileQueries,
// kChunkKeys] times rows, for the keys that each sees.
inline void AddVisibleKeys(const VisibleKeys& visible, const Number* coefficients,
                           const float* rows, int64_t dim, float* sums) {
  for (int64_t r = 0; r < kTileQueries; ++r) {
    const Number* row = coefficients + r * kChunkKeys;
    AddVisibleRows(
        visible.low[r], visible.high[r], [&](int64_t key) { return row[key]; }, rows, dim,
        sums + r * dim);
  }
}

// x where lanes key, key + 1, ... lie in [low, high), zero elsewhere.
inline Vec KeepVisible(int64_t key, int32_t low, int32_t high, Vec x, Vec hidden) {
  const auto first = static_cast<int32_t>(key);
  return Select(LaneRange(low - first, high - first), x, hidden);
}

// fn(slot, visible) for every chunk that the tile sees: band chunks in ascending order, then packed
// ones. Every query sees a key of the band, itself.
template <typename Fn>
inline void ForEachChunk(const AttentionHead& head, const AttentionSegment& segment,
                         const QueryTile& tile, const Fn& fn) {
  VisibleKeys visible;
  const int64_t last_query = tile.begin + tile.size - 1;
  const int64_t first_key = Larger(0, tile.begin - head.window + 1);
  for (int64_t c = first_key / kChunkKeys; c * kChunkKeys <= last_query; ++c) {
    for (int64_t r = 0; r < tile.size; ++r) {
      const int64_t offset = tile.begin + r - c * kChunkKeys;
      visible.Set(r, offset - head.window + 1, offset + 1);
    }
    visible.HideFrom(tile.size);
    fn(c % segment.ring_chunks, visible);
  }
  const int64_t num_far = FarCount(head, last_query);
  for (int64_t c = 0; c * kChunkKeys < num_far; ++c) {
    for (int64_t r = 0; r < tile.size; ++r) {
      visible.Set(r, 0, FarCount(head, tile.begin + r) - c * kChunkKeys);
    }
    visible.HideFrom(tile.size);
    fn(segment.ring_chunks + c, visible);
  }
}

// First band chunk that a segment reads.
inline int64_t FirstBandChunk(const AttentionHead& head, const AttentionSegment& segment) {
  return Larger(0, segment.begin - head.window + 1) / kChunkKeys;
}
inline int64_t NumPackedChunks(const AttentionSegment& segment) {
  return (segment.num_packed + kChunkKeys - 1) / kChunkKeys;
}

// load(keys, slot, offset) for packed keys next, next + 1, ... that a tile brings into sight: they
// go to places offset, offset + 1, ... of the slot.
template <typename Load>
inline void LoadPackedKeys(const AttentionHead& head, const AttentionSegment& segment,
                           const QueryTile& tile, int64_t& next, const Load& load) {
  const int64_t num_far = FarCount(head, tile.begin + tile.size - 1);
  for (; next < num_far; next += kPackedKeys) {
    load(PackedKeys(head, segment.num_packed, next), segment.ring_chunks + next / kChunkKeys,
         next % kChunkKeys);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
