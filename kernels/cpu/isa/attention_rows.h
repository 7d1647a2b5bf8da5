// Rows of a head on their way in and out of a sweep of Sep-Attention: queries, chunks of keys,
// outputs. For the files of this folder only.
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
    // By row, so that rows do not wait for each other.
    Vec zero_times_row = Zero();
    for (int64_t d = 0; d < head.padded_dim; d += kLanes) {
      zero_times_row = Fma(Load(row + d), Zero(), zero_times_row);
    }
    zero_times_all = zero_times_all + zero_times_row;
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

// Queries [begin, begin + size) of a tile.
struct QueryTile {
  int64_t begin;
  int64_t size;  // 1 ... kTileQueries
};

// Asks for the rows of the next tile while this one is computed: the rows of a head lie thousands
// of bytes apart, which no hardware prefetcher follows. A few lines beside every block of products,
// so that the fill buffers of the first cache stay free for what the products read.
class RowPrefetch {
 public:
  // `parts`: rows of arrays, asked for beside one block.
  explicit RowPrefetch(int parts) : parts_(parts) {}

  // Rows of `row_bytes` bytes, `stride` apart; kMaxArrays of them at most.
  void Add(const void* row0, int64_t stride, int64_t row_bytes) {
    arrays_[num_arrays_++] = {static_cast<const char*>(row0), stride, row_bytes};
  }
  // q, k and v.
  void AddQkv(const AttentionHead& head) {
    const int64_t bytes = head.head_dim * ElementBytes(head.dtype);
    for (int part = 0; part < 3; ++part) Add(QkvRow(head, 0, part), head.qkv_row_bytes, bytes);
  }
  void Start(const AttentionSegment& segment, const QueryTile& tile) {
    array_ = 0;
    row_ = tile.begin + tile.size;
    end_ = Smaller(row_ + kTileQueries, segment.end);
  }
  void Some() {
    for (int part = 0; part < parts_ && row_ < end_; ++part) {
      const Rows& rows = arrays_[array_];
      const char* row = rows.row0 + row_ * rows.stride;
      for (int64_t at = 0; at < rows.row_bytes; at += 64) _mm_prefetch(row + at, _MM_HINT_T1);
      if (++array_ < num_arrays_) continue;
      array_ = 0;
      ++row_;
    }
  }

 private:
  struct Rows {
    const char* row0;
    int64_t stride, row_bytes;
  };
  static constexpr int kMaxArrays = 5;

  int parts_;
  int num_arrays_ = 0;
  int array_ = 0;
  int64_t row_ = 0;
  int64_t end_ = 0;
  Rows arrays_[kMaxArrays];
};

}  // namespace sepia::kernels::cpu::SEPIA_ISA
