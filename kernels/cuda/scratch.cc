#include "kernels/cuda/scratch.h"

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/model_ops.h"
#include "kernels/lm_head.h"

namespace sepia::kernels::cuda {
namespace {

// Hands out 256-byte aligned parts of the scratch; with null memory only counts.
class Cutter {
 public:
  explicit Cutter(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <typename T>
  void Cut(T*& part, int64_t count) {
    part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += InArena(static_cast<size_t>(count) * sizeof(T));
  }
  int64_t used() const { return used_; }

 private:
  std::byte* memory_;
  int64_t used_ = 0;
};

SepAttentionParams EveryTokenFar(int64_t batch_size, int64_t seq_length, int64_t num_heads,
                                 int64_t head_dim) {
  SepAttentionParams params = {};
  params.batch_size = static_cast<int32_t>(batch_size);
  params.seq_length = static_cast<int32_t>(seq_length);
  params.num_heads = static_cast<int32_t>(num_heads);
  params.head_dim = static_cast<int32_t>(head_dim);
  params.max_packed = params.seq_length;
  return params;
}

}  // namespace

int64_t EmbeddingScratchBytes(int64_t num_tokens) {
  return 2 * InArena(static_cast<size_t>(num_tokens) * sizeof(uint64_t));
}

int64_t LmHeadScratchBytes(int64_t m, int64_t c, int64_t v, int num_parts) {
  const int64_t rows = LmHeadChunkRows(m, c);
  const auto bytes = [&](int64_t count, size_t size) {
    return InArena(static_cast<size_t>(count) * size);
  };
  return bytes(rows * v, sizeof(float)) + bytes(rows, sizeof(RowStatistics)) +
         bytes(num_parts * rows, sizeof(RowStatistics)) + bytes(rows, sizeof(double));
}

int64_t NumSegments(int64_t batch_size, int64_t seq_length, int64_t num_heads) {
  constexpr int64_t kWantedBlocks = 216, kKeysOfBlock = 128, kShortest = 512;
  const int64_t heads = std::max<int64_t>(1, batch_size * num_heads);
  const int64_t blocks = heads * (1 + seq_length / (6 * kKeysOfBlock));
  return std::clamp<int64_t>(kWantedBlocks / blocks, 1,
                             std::max<int64_t>(1, seq_length / kShortest));
}

int64_t CutSepAttentionScratch(SepAttentionParams& p, void* scratch) {
  Cutter cutter(scratch);
  const int64_t heads = int64_t{p.batch_size} * p.num_heads;
  const int64_t packed = heads * p.max_packed * p.head_dim;
  cutter.Cut(p.packed_keys, packed);
  cutter.Cut(p.packed_values, packed);
  cutter.Cut(p.row_stats, 2 * heads * p.seq_length);
  cutter.Cut(p.packed_dkeys, p.num_segments * packed);
  cutter.Cut(p.packed_dvalues, p.num_segments * packed);
  return cutter.used();
}

int64_t SepAttentionScratchBytes(const SepAttentionShape& shape) {
  SepAttentionParams params =
      EveryTokenFar(shape.batch_size, shape.seq_length, shape.num_heads, shape.head_dim);
  params.num_segments =
      static_cast<int32_t>(NumSegments(shape.batch_size, shape.seq_length, shape.num_heads));
  return CutSepAttentionScratch(params, nullptr);
}

int64_t CacheSplits(int64_t num_rows, int64_t most_keys) {
  return std::clamp<int64_t>(kCacheBlocks / num_rows, 1, CeilDiv(most_keys, kLeastKeysOfSplit));
}

int64_t CachedAttentionScratchBytes(const CachedAttentionShape& s) {
  const auto floats = [](int64_t count) {
    return InArena(static_cast<size_t>(count) * sizeof(float));
  };
  SepAttentionParams prompt = EveryTokenFar(/*batch_size=*/1, s.num_new, s.num_heads, s.head_dim);
  // More than one split: no more parts than blocks are wanted.
  return std::max(floats(s.num_heads * s.num_new) + CutSepAttentionScratch(prompt, nullptr),
                  floats(kCacheBlocks * s.head_dim) + floats(kCacheBlocks * 2));
}

int64_t ExpectedDnnScratchBytes(const SepAttentionShape& shape) {
  const int64_t rows = shape.batch_size * shape.num_heads * shape.seq_length;
  return InArena(static_cast<size_t>(4 * rows)) +
         InArena(static_cast<size_t>(2 * rows * shape.seq_length));
}

}  // namespace sepia::kernels::cuda
