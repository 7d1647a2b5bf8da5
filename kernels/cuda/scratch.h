// How much device scratch the ops take: plain arithmetic on shapes, part of every build, so that a
// run on GPUs can be planned on any machine.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arena.h"
#include "base/integer.h"
#include "kernels/cached_attention.h"
#include "kernels/cuda/sep_attention_kernels.h"
#include "kernels/sep_attention.h"

namespace sepia::kernels::cuda {

// What an arena takes for so many bytes.
inline int64_t InArena(size_t bytes) {
  return RoundUp(static_cast<int64_t>(bytes), Arena::kAlignment);
}

int64_t EmbeddingScratchBytes(int64_t num_tokens);
int64_t LmHeadScratchBytes(int64_t m, int64_t c, int64_t v, int num_parts);
// Every token far-visible.
int64_t SepAttentionScratchBytes(const SepAttentionShape& shape);

// Blocks of cached attention that fill a GPU, if the keys give work for as many: four on each of an
// A100's 108 multiprocessors. A split has at least kLeastKeysOfSplit keys.
inline constexpr int64_t kCacheBlocks = 432, kLeastKeysOfSplit = 128;
// Splits of the keys of `num_rows` queries (tokens * heads) that see at most `most_keys` each.
int64_t CacheSplits(int64_t num_rows, int64_t most_keys);
// Whichever the call takes: a prompt's, or of the splits.
int64_t CachedAttentionScratchBytes(const CachedAttentionShape& shape);

// What cuDNN's deterministic backward is known to take: 2 bytes a score, and a row's sum in fp32.
// For plans where no device is open; otherwise its own plans say.
int64_t ExpectedDnnScratchBytes(const SepAttentionShape& shape);

// Segments of the far pass by the shape alone, so that results do not depend on the GPU: enough
// blocks for two on each of an A100's 108 multiprocessors if a sixth of the keys is far, unless
// segments would be shorter than 512 queries.
int64_t NumSegments(int64_t batch_size, int64_t seq_length, int64_t num_heads);
// Gives the parts of the scratch to `params`, whose sizes are set, and returns the bytes; with null
// memory it only counts. No segments: what forward takes.
int64_t CutSepAttentionScratch(SepAttentionParams& params, void* scratch);

}  // namespace sepia::kernels::cuda
