// Attention of new tokens of one sequence over the keys and values of all tokens so far, kept in a
// cache: what generation needs. The visibility rule, scale and softmax are those of
// kernels/sep_attention.h; there is no backward. Only keys that some new token sees are read.
#pragma once

#include "base/attention_index.h"
#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

// The parts of an index that a device reads, in its memory. The caller keeps them up to date: a
// token adds one count, and a position if it is far-visible.
struct FarKeys {
  ConstTensorView positions;  // [>= packed keys] int32
  ConstTensorView count;      // [>= begin + N] int32
};

struct CachedAttentionArgs {
  ConstTensorView qkv;  // [N, H, 3, D] after rotary, compute dtype: tokens begin .. begin+N-1
  int64_t begin;        // position of the first new token
  const AttentionIndex* index;  // of one row of begin + N tokens; null: no packed keys
  FarKeys far_keys = {};        // of `index`, on a device; the host reads `index` itself
  int64_t window;               // >= 1; counts the query itself
  TensorView keys;              // [>= begin + N, H, D] compute dtype: rows begin .. are written
  TensorView values;
  TensorView out;  // [N, H, D] compute dtype
};
void CachedAttention(Context& ctx, const CachedAttentionArgs& args);

// Scratch of calls with up to `num_new` tokens that end at most at `length`.
struct CachedAttentionShape {
  int64_t num_new, length, num_heads, head_dim;
  DType dtype;
  int num_threads;
  Device device = Device::kCpu;
};
int64_t CachedAttentionScratchBytes(const CachedAttentionShape& shape);

namespace cpu {
void CachedAttention(Context& ctx, const CachedAttentionArgs& args);
}  // namespace cpu

}  // namespace sepia::kernels
