// One transformer block, forward and backward, in GPT-NeoX's two residual forms:
//   parallel    y = x + attention(ln1(x)) + mlp(ln2(x))
//   sequential  m = x + attention(ln1(x));  y = m + mlp(ln2(m))
// Source: NeoX v1.0 transformer.py ParallelTransformerLayer; transformers modeling_gpt_neox.py.
//
// Under tensor parallelism qkv and up are cut by columns, dense and down by rows, so each rank
// holds a partial sum after dense and down: one sum over ranks in forward and one in backward
// (parallel form), of which a rank keeps its rows of the residual stream (residual_rows.h).
// Row-parallel biases are added after it, once. Sizes below are those of the local shard.
#pragma once

#include <cstdint>
#include <string>

#include "base/arena.h"
#include "base/attention_index.h"
#include "base/integer.h"
#include "kernels/cached_attention.h"
#include "kernels/context.h"
#include "kernels/gelu.h"
#include "kernels/weight.h"
#include "model/model_config.h"
#include "model/residual_rows.h"

namespace sepia::model {

struct BlockShape {
  int64_t B, T;  // rows and tokens of this micro-batch
  int64_t C;     // width
  int64_t H, D;  // local heads, head dim
  int64_t F;     // local MLP width
  DType dtype;   // compute dtype
  // Ranks that share the rows of the residual stream; 1: this rank has all of them.
  int64_t row_ranks = 1;

  int64_t M() const { return B * T; }
  int64_t padded_rows() const { return RoundUp(M(), row_ranks); }
  int64_t own_rows() const { return padded_rows() / row_ranks; }  // R below
};

struct BlockWeights {
  ConstTensorView ln1_gamma, ln1_beta;  // [C]
  const kernels::Weight& qkv;           // [3HD, C], rows grouped by head: q, k, v
  ConstTensorView qkv_bias;             // [3HD]
  const kernels::Weight& dense;         // [C, HD]
  ConstTensorView dense_bias;           // [C]
  ConstTensorView ln2_gamma, ln2_beta;  // [C]
  const kernels::Weight& up;            // [F, C]
  ConstTensorView up_bias;              // [F]
  const kernels::Weight& down;          // [C, F]
  ConstTensorView down_bias;            // [C]
};

// fp32, shaped as the weights.
struct BlockGradients {
  TensorView ln1_gamma, ln1_beta, qkv, qkv_bias, dense, dense_bias;
  TensorView ln2_gamma, ln2_beta, up, up_bias, down, down_bias;
};

// What forward saves for backward, besides the block's input.
struct BlockActivations {
  TensorView ln1, mean1, rstd1;  // [M, C]; [M] fp32
  TensorView qkv;                // [B, T, H, 3, D], rotated
  TensorView attention, lse;     // [B, T, H, D]; [B, H, T] fp32
  TensorView middle;             // [R, C], sequential form only
  TensorView ln2, mean2, rstd2;
  TensorView up;  // [M, F], before bias and GeLU
};
// When ranks share the rows, ln1 and ln2 are not allocated: the caller points both to one memory.
BlockActivations AllocateBlockActivations(Arena& arena, const std::string& name,
                                          const BlockShape& shape, bool parallel_residual);

// The same tensors for a smaller batch.
BlockActivations Narrow(const BlockActivations& activations, const BlockShape& shape);

// Memory for values that live inside one call; all blocks share it. Two gradients that are never
// alive together have one place.
struct BlockTemporaries {
  TensorView partial;  // >= [padded M, C]: sums before the reduction
  TensorView own;      // >= [R, C]: the rank's rows after it; `partial` itself when it has all
  TensorView d_width;  // >= [M, C]: gradient of attention, then of a LayerNorm's output
  // >= [M, max(3HD, F)]: GeLU's result; in backward the gradient of qkv or of GeLU
  TensorView wide;
  // When ranks share the rows only:
  TensorView x, dy;  // >= [padded M, C]: gathered
  TensorView norm;   // >= [M, C]: ln1, then ln2, of any block
};
BlockTemporaries AllocateBlockTemporaries(Arena& arena, const BlockShape& shape, bool gradients);

// The first elements of `memory` as a tensor of this shape.
TensorView Prefix(TensorView memory, const Shape& shape);

// Generation: the keys and values of one sequence so far, and where the new tokens begin.
struct KeyValueCache {
  TensorView keys, values;  // [length, H, D] compute dtype
  int64_t begin;
  kernels::FarKeys far_keys = {};  // of the layer's index, on a device
};

// What all calls of one layer have in common.
struct BlockContext {
  const ResidualRows& rows;
  // ln1 and ln2 have one memory in all blocks: backward computes them again from the gathered x.
  bool recompute_norms;
  bool parallel_residual;
  kernels::GeluKind gelu;
  float layer_norm_eps;
  ConstTensorView cos,
      sin;  // rotary tables from the first token's position, [>= T, rotary_dim / 2]
  const AttentionIndex* index;  // null: no packed keys
  int64_t window;
  const KeyValueCache* cache = nullptr;  // set in generation (B = 1, forward only)
};

struct BlockForwardArgs {
  const BlockContext& block;
  const BlockWeights& weights;
  ConstTensorView x;                    // [R, C] compute dtype
  const BlockActivations& activations;  // written
  const BlockTemporaries& temporaries;
  TensorView y;  // [R, C]; may be the memory of x when backward never runs
};
void BlockForward(kernels::Context& ctx, const BlockForwardArgs& args);

// Turns the gradient of y into the gradient of x, in place; adds up the weight gradients. Uses up
// the activations: GeLU's results, which nobody saved, take the place of its inputs.
struct BlockBackwardArgs {
  const BlockContext& block;
  const BlockWeights& weights;
  ConstTensorView x;                    // as in forward
  const BlockActivations& activations;  // as forward left them; overwritten in parts
  const BlockTemporaries& temporaries;
  const BlockGradients& gradients;
  GradMode grad_mode;
  TensorView dx;  // [R, C]: in the gradient of y, out that of x
};
void BlockBackward(kernels::Context& ctx, const BlockBackwardArgs& args);

// Scratch that the ops of a block take at most, for shapes up to `shape`.
int64_t BlockScratchBytes(const BlockShape& shape, int num_threads, Device device = Device::kCpu,
                          kernels::FullAttention full_attention = kernels::FullAttention::kOwn);

}  // namespace sepia::model
