// Attention of new tokens of one sequence over the keys and values of all tokens so far, kept in a
// cache: what generation needs. The visibility rule, scale and softmax are those of
// kernels/sep_attention.h; there is no backward. On the host only so far.
#pragma once

#include "base/attention_index.h"
#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

struct CachedAttentionArgs {
  ConstTensorView qkv;  // [N, H, 3, D] after rotary, compute dtype: tokens begin .. begin+N-1
  int64_t begin;        // position of the first new token
  const AttentionIndex* index;  // of one row of begin + N tokens; null: no packed keys
  int64_t window;               // >= 1; counts the query itself
  TensorView keys;              // [>= begin + N, H, D] compute dtype: rows begin .. are written
  TensorView values;
  TensorView out;  // [N, H, D] compute dtype
};
void CachedAttention(Context& ctx, const CachedAttentionArgs& args);

// Scratch for sequences of up to `length` tokens.
int64_t CachedAttentionScratchBytes(int64_t length, int num_threads);

namespace cpu {
void CachedAttention(Context& ctx, const CachedAttentionArgs& args);
}  // namespace cpu

}  // namespace sepia::kernels
