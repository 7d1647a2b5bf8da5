// What the forward and the backward sweep of Sep-Attention share: loading rows and chunks, and the
// interval of keys that each query of a tile sees in a chunk. For the files of this folder only.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/isa/convert_rows.h"
#include "kernels/cpu/isa/sep_attention.h"
#include "kernels/cpu/isa/tile_product.h"
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

// D elements widened, the padding zero.
inline void LoadRow(const AttentionHead& head, const void* from, float* to) {
  WidenRow(head.dtype, from, head.head_dim, to);
  for (int64_t d = head.head_dim; d < head.padded_dim; ++d) to[d] = 0.0f;
}

// Rows row_of(0) ... row_of(count - 1) as fp32 [count, padded_dim].
template <typename RowOf>
inline void LoadRows(const AttentionHead& head, int64_t count, const RowOf& row_of, float* to) {
  for (int64_t i = 0; i < count; ++i) LoadRow(head, row_of(i), to + i * head.padded_dim);
}

inline void ZeroFill(float* to, int64_t num_floats) {
  std::memset(to, 0, static_cast<size_t>(num_floats) * sizeof(float));
}

// factor * row, rounded once.
inline void StoreScaledRow(const AttentionHead& head, float* row, float factor, void* to) {
  for (int64_t d = 0; d < head.padded_dim; d += kLanes) Store(row + d, Load(row + d) * Set(factor));
  NarrowRow(head.dtype, row, head.head_dim, to);
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
  int64_t padded_size() const { return (size + kPanelWidth - 1) / kPanelWidth * kPanelWidth; }
};

inline KeyRange BandChunk(const AttentionHead& head, int64_t chunk) {
  const int64_t begin = chunk * kChunkKeys;
  return {nullptr, begin, Smaller(kChunkKeys, head.seq_length - begin)};
}
inline KeyRange PackedChunk(const AttentionHead& head, int64_t num_packed, int64_t chunk) {
  const int64_t begin = chunk * kChunkKeys;
  return {head.positions, begin, Smaller(kChunkKeys, num_packed - begin)};
}

// Rows of part k or v as fp32 [padded_size, padded_dim].
inline void LoadKeyRows(const AttentionHead& head, const KeyRange& keys, int part, float* to) {
  LoadRows(
      head, keys.size, [&](int64_t i) { return QkvRow(head, keys[i], part); }, to);
  const int64_t padding = keys.padded_size() - keys.size;
  ZeroFill(to + keys.size * head.padded_dim, padding * head.padded_dim);
}

// Panels [padded_dim][kPanelWidth], one after the other, from such rows.
inline void TransposeKeys(const AttentionHead& head, const KeyRange& keys, const float* rows,
                          float* panels) {
  for (int64_t key = 0; key < keys.size; key += kPanelWidth) {
    Transpose(rows + key * head.padded_dim, kPanelWidth, head.padded_dim,
              panels + key * head.padded_dim, kPanelWidth);
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

// Keys [low, high) of a chunk that each query of a tile sees; both ascend with the query.
struct VisibleKeys {
  int32_t low[kTileQueries];
  int32_t high[kTileQueries];

  void Set(int64_t query, int64_t first, int64_t last) {
    low[query] = static_cast<int32_t>(Smaller(Larger(first, 0), kChunkKeys));
    high[query] = static_cast<int32_t>(Smaller(Larger(last, 0), kChunkKeys));
  }
};

// A block of kTileRows queries against a chunk: the keys that any of them sees, and the whole
// vectors around them.
struct BlockSpan {
  int32_t low, high;
  int32_t vector_low, vector_high;

  BlockSpan(const VisibleKeys& visible, const QueryTile& tile, int64_t first_query)
      : low(visible.low[first_query]),
        high(visible.high[Smaller(first_query + kTileRows, tile.size) - 1]),
        vector_low(low / kLanes * kLanes),
        vector_high((high + kLanes - 1) / kLanes * kLanes) {}
  bool empty() const { return low >= high; }
};

// x where lanes key, key + 1, ... lie in [low, high), `hidden` elsewhere.
inline Vec KeepVisible(int32_t key, int32_t low, int32_t high, Vec x, Vec hidden) {
  if (low <= key && key + kLanes <= high) return x;
  return Select(LaneRange(low - key, high - key), x, hidden);
}

// scores [kTileRows, kChunkKeys] of the span's panels = rows^T panels; `rows` is the transposed
// tile [D][kTileQueries] at the block's first query.
inline void BlockScores(const AttentionHead& head, const BlockSpan& span, const float* rows,
                        const float* panels, float* scores) {
  for (int64_t key = span.low / kPanelWidth * kPanelWidth; key < span.high; key += kPanelWidth) {
    MultiplyBlock<TileMode::kOverwrite, 2, 1, kTileQueries>(
        head.head_dim, rows, panels + key * head.padded_dim, kPanelWidth, scores + key, kChunkKeys);
  }
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
    fn(c % segment.ring_chunks, visible);
  }
  const int64_t num_far = FarCount(head, last_query);
  for (int64_t c = 0; c * kChunkKeys < num_far; ++c) {
    for (int64_t r = 0; r < tile.size; ++r) {
      visible.Set(r, 0, FarCount(head, tile.begin + r) - c * kChunkKeys);
    }
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

}  // namespace sepia::kernels::cpu::SEPIA_ISA
