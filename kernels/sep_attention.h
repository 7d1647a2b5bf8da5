// Separator-sparse attention on packed keys; dense causal attention is the case window >= T.
//
// out_i = sum_j softmax_j(q_i k_j / sqrt(D)) v_j over the keys that query i sees:
//   band keys   i - window < j <= i
//   packed keys index->positions[p], p < far(i), far(i) = i >= window ? count[i - window] : 0
// Disjoint and complete (base/attention_index.h). Work is proportional to visible pairs: there is
// no mask tensor. Softmax, its sums and all accumulations in fp32. Deterministic for any number of
// threads. Source: SepLLM, arXiv 2412.12094; FlashAttention-2 for the saved log-sum-exp.
#pragma once

#include <string>

#include "base/attention_index.h"
#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

struct SepAttentionForwardArgs {
  ConstTensorView qkv;          // [B, T, H, 3, D] after rotary, compute dtype (f32, bf16, f16)
  const AttentionIndex* index;  // of these B rows of T tokens; null: no packed keys
  int64_t window;               // >= 1; counts the query itself
  TensorView out;               // [B, T, H, D] compute dtype; must not alias qkv
  TensorView lse;               // [B, H, T] fp32: log-sum-exp of the scaled scores (natural log)
};
void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args);

// Recomputes the probabilities from lse. D_i = sum(dout_i * out_i) uses the rounded out.
struct SepAttentionBackwardArgs {
  ConstTensorView qkv;
  const AttentionIndex* index;
  int64_t window;
  ConstTensorView out;
  ConstTensorView lse;
  ConstTensorView dout;  // [B, T, H, D] compute dtype
  TensorView dqkv;       // [B, T, H, 3, D] compute dtype; fully overwritten, rounded once
};
void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args);

// Scratch that either call takes from ctx.scratch at most. Packed keys are sized for the worst
// case, every token far-visible, because the plan is made before any batch is seen.
struct SepAttentionShape {
  int64_t batch_size, seq_length, num_heads, head_dim;
  DType dtype;
  int num_threads;
  Device device = Device::kCpu;
  FullAttention full_attention = FullAttention::kOwn;  // of calls without an index
};
// With cuDNN on a device that is open: what its plans say, and UserError where it has none.
int64_t SepAttentionScratchBytes(const SepAttentionShape& shape);

// "amx", "avx512", "avx2": the code path of this machine, for the header block and bench.
const char* SepAttentionIsaName(DType dtype);

// The kernel that a layer runs on ctx.device: the above, or "mma.sync bf16 D=64", "fallback f32".
// Throws UserError where ctx.allow_fallback forbids it, or the device has none.
std::string SepAttentionKernelName(const Context& ctx, DType dtype, int64_t head_dim);
// The same for full attention, calls without an index whose window is T or more; on a device those
// are cuDNN's where ctx.full_attention says so: "cuDNN 9.19.0 SDPA bf16 D=64, deterministic".
std::string FullAttentionKernelName(const Context& ctx, const SepAttentionShape& shape);

}  // namespace sepia::kernels
