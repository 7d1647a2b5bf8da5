// The op of kernels/cached_attention.h for few new tokens: a query reads every key that it sees
// once, so memory is the bound and tensor cores have nothing to gain. The visible keys of a query
// are numbered, packed ones first, then the band; so many splits of equal size share them that one
// sequence fills a GPU, and a second kernel adds the splits up in their order. Sizes of splits
// depend on the shapes and the numbers of visible keys alone.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

// Every pointer is device memory, its elements of `dtype` unless stated.
struct CachedAttentionParams {
  DType dtype;
  int32_t num_new, num_heads, head_dim;  // N, H, D <= kMaxHeadDim
  int32_t begin;                         // position of the first new token
  int64_t window;                        // >= 1
  const void* qkv;                       // [N, H, 3, D]
  void* keys;                            // [>= begin + N, H, D]
  void* values;
  const int32_t* positions;  // of packed keys; null: there are none
  const int32_t* count;      // [>= begin + N]
  void* out;                 // [N, H, D]
  int32_t num_splits;        // CacheSplits()
  float scale;               // log2(e) / sqrt(D)
  float* split_sums;         // [N, H, splits, D]; not used with one split
  float* split_stats;        // [N, H, splits, 2]: largest score, sum of exponentials
};

// Copies the new keys and values to their places in the cache.
void AppendToCache(Stream& stream, const CachedAttentionParams& params);
// Attention over the cache, which has the new keys and values.
void CachedAttention(Stream& stream, const CachedAttentionParams& params);

}  // namespace sepia::kernels::cuda
