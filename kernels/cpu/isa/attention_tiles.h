// What the forward and the backward sweep of Sep-Attention share: which keys of a chunk each query
// of a tile sees, and products of a tile with a chunk. For the files of this folder only.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa/attention_rows.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

// Query i takes its first far(i) packed keys.
inline int64_t FarCount(const AttentionHead& head, int64_t query) {
  if (head.count == nullptr || query < head.window) return 0;
  return head.count[query - head.window];
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

// A block of kBlockRows queries against a chunk: the keys that any of them sees, and the whole
// vectors around them.
struct BlockSpan {
  int32_t low, high;
  int32_t vector_low, vector_high;
  int32_t full_low, full_high;  // every query of the block sees these

  bool empty() const { return low >= high; }
  bool IsFull(int64_t key, int num_vecs) const {
    return full_low <= key && key + num_vecs * kLanes <= full_high;
  }
};

// Keys [low, high) of a chunk that each query of a tile sees; both ascend with the query. Queries
// beyond the tile's size see none.
struct VisibleKeys {
  static constexpr int kNumBlocks = kTileQueries / kBlockRows;

  int32_t low[kTileQueries];
  int32_t high[kTileQueries];
  BlockSpan blocks[kNumBlocks];

  void Set(int64_t query, int64_t first, int64_t last) {
    low[query] = static_cast<int32_t>(Smaller(Larger(first, 0), kChunkKeys));
    high[query] = static_cast<int32_t>(Smaller(Larger(last, 0), kChunkKeys));
  }
  // After the first `size` queries were set.
  void Finish(int64_t size) {
    for (int64_t r = size; r < kTileQueries; ++r) low[r] = high[r] = high[size - 1];
    for (int block = 0; block < kNumBlocks; ++block) {
      const int first = block * kBlockRows;
      const int last = first + kBlockRows - 1;
      blocks[block] = {.low = low[first],
                       .high = high[last],
                       .vector_low = low[first] / kLanes * kLanes,
                       .vector_high = (high[last] + kLanes - 1) / kLanes * kLanes,
                       .full_low = low[last],
                       .full_high = high[first]};
    }
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
  for (int64_t block = 0; block < VisibleKeys::kNumBlocks; ++block) {
    fn(block * kBlockRows, visible.blocks[block]);
  }
}

// All queries of a tile against the panels of a chunk that they see: finish(r, key, sums, VecCount,
// Masked or Unmasked) takes the sums start(r) + row r of columns^T panels, kVecs vectors of them,
// for keys key, key + 1, ... `columns` is the transposed tile [RowCells][kTileQueries].
template <typename Start, typename Finish>
inline void MultiplyScores(const AttentionHead& head, const VisibleKeys& visible,
                           const float* columns, const float* panels, RowPrefetch& prefetch,
                           const Start& start, const Finish& finish) {
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
        prefetch.Some();
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
    visible.Finish(tile.size);
    fn(c % segment.ring_chunks, visible);
  }
  const int64_t num_far = FarCount(head, last_query);
  for (int64_t c = 0; c * kChunkKeys < num_far; ++c) {
    for (int64_t r = 0; r < tile.size; ++r) {
      visible.Set(r, 0, FarCount(head, tile.begin + r) - c * kChunkKeys);
    }
    visible.Finish(tile.size);
    fn(segment.ring_chunks + c, visible);
  }
}

// First band chunk that a segment reads.
inline int64_t FirstBandChunk(const AttentionHead& head, const AttentionSegment& segment) {
  return Larger(0, segment.begin - head.window + 1) / kChunkKeys;
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
