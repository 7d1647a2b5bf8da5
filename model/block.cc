#include "model/block.h"

#include <algorithm>

#include "kernels/cached_attention.h"
#include "kernels/elementwise.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/rotary.h"
#include "kernels/sep_attention.h"

namespace sepia::model {
namespace {

using namespace kernels;  // NOLINT: the functions below read as formulas

// [B, T, ...] as the matrix [M, rest] that a product sees.
TensorView Matrix(TensorView x) {
  const int64_t rows = x.dim(0) * x.dim(1);
  return x.Reshaped({rows, x.num_elements() / rows});
}

void SumOverTensorRanks(Context& ctx, const BlockContext& block, TensorView partial,
                        std::string_view label) {
  block.mesh.tensor().AllReduce(ctx, partial, dist::ReduceOp::kSum, label).Wait();
}

// lse is left alone when keys come from a cache: nothing runs backward then.
void AttentionCore(Context& ctx, const BlockContext& b, const BlockActivations& a) {
  if (b.cache == nullptr) {
    SepAttentionForward(
        ctx,
        {.qkv = a.qkv, .index = b.index, .window = b.window, .out = a.attention, .lse = a.lse});
    return;
  }
  const int64_t rows = a.qkv.dim(1);
  const int64_t heads = a.qkv.dim(2);
  const int64_t head_dim = a.qkv.dim(4);
  CachedAttention(ctx, {.qkv = Prefix(a.qkv, {rows, heads, 3, head_dim}),
                        .begin = b.cache->begin,
                        .index = b.index,
                        .window = b.window,
                        .keys = b.cache->keys,
                        .values = b.cache->values,
                        .out = Prefix(a.attention, {rows, heads, head_dim})});
}

// partial (+)= dense(attention(rotary(qkv(ln1(x))))) without dense's bias.
void AttentionForward(Context& ctx, const BlockForwardArgs& args, ConstTensorView x,
                      TensorView partial, GradMode mode) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const BlockContext& b = args.block;
  LayerNormForward(ctx, {.x = x,
                         .gamma = w.ln1_gamma,
                         .beta = w.ln1_beta,
                         .y = a.ln1,
                         .mean = a.mean1,
                         .rstd = a.rstd1,
                         .eps = b.layer_norm_eps});
  LinearForward(ctx, {.x = a.ln1, .weight = w.qkv, .bias = w.qkv_bias, .y = Matrix(a.qkv)});
  RotaryForward(ctx, {.qkv = a.qkv, .cos = b.cos, .sin = b.sin});
  AttentionCore(ctx, b, a);
  LinearForward(
      ctx, {.x = Matrix(a.attention), .weight = w.dense, .bias = {}, .y = partial, .mode = mode});
}

// dpartial (+)= gradient of ln1's input, given the gradient dy of AttentionForward's result.
void AttentionBackward(Context& ctx, const BlockBackwardArgs& args, ConstTensorView x,
                       ConstTensorView dy, TensorView dpartial, GradMode mode) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const BlockGradients& g = args.gradients;
  const BlockContext& b = args.block;
  const TensorView d_attention = Prefix(args.temporaries.d_width, a.attention.shape());
  const TensorView d_qkv = Prefix(args.temporaries.wide, a.qkv.shape());
  const TensorView d_ln1 = Prefix(args.temporaries.d_width, a.ln1.shape());
  LinearBackward(ctx, {.x = Matrix(a.attention),
                       .weight = w.dense,
                       .dy = dy,
                       .dx = Matrix(d_attention),
                       .dweight = g.dense,
                       .dbias = {},
                       .grad_mode = args.grad_mode});
  SepAttentionBackward(ctx, {.qkv = a.qkv,
                             .index = b.index,
                             .window = b.window,
                             .out = a.attention,
                             .lse = a.lse,
                             .dout = d_attention,
                             .dqkv = d_qkv});
  RotaryBackward(ctx, {.qkv = d_qkv, .cos = b.cos, .sin = b.sin});
  LinearBackward(ctx, {.x = a.ln1,
                       .weight = w.qkv,
                       .dy = Matrix(d_qkv),
                       .dx = d_ln1,
                       .dweight = g.qkv,
                       .dbias = g.qkv_bias,
                       .grad_mode = args.grad_mode});
  LayerNormBackward(ctx, {.x = x,
                          .gamma = w.ln1_gamma,
                          .mean = a.mean1,
                          .rstd = a.rstd1,
                          .dy = d_ln1,
                          .dx = dpartial,
                          .dgamma = g.ln1_gamma,
                          .dbeta = g.ln1_beta,
                          .dx_mode = mode,
                          .grad_mode = args.grad_mode});
}

// partial (+)= down(gelu(up(ln2(x)))) without down's bias.
void MlpForward(Context& ctx, const BlockForwardArgs& args, ConstTensorView x, TensorView partial,
                GradMode mode) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const BlockContext& b = args.block;
  const TensorView gelu = Prefix(args.temporaries.wide, a.up.shape());
  LayerNormForward(ctx, {.x = x,
                         .gamma = w.ln2_gamma,
                         .beta = w.ln2_beta,
                         .y = a.ln2,
                         .mean = a.mean2,
                         .rstd = a.rstd2,
                         .eps = b.layer_norm_eps});
  LinearForward(ctx, {.x = a.ln2, .weight = w.up, .bias = {}, .y = a.up});
  BiasGeluForward(ctx, {.x = a.up, .bias = w.up_bias, .y = gelu, .kind = b.gelu});
  LinearForward(ctx, {.x = gelu, .weight = w.down, .bias = {}, .y = partial, .mode = mode});
}

// dpartial (+)= gradient of ln2's input, given the gradient dy of MlpForward's result.
void MlpBackward(Context& ctx, const BlockBackwardArgs& args, ConstTensorView x, ConstTensorView dy,
                 TensorView dpartial, GradMode mode) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const BlockGradients& g = args.gradients;
  const TensorView d_mlp = Prefix(args.temporaries.wide, a.up.shape());
  const TensorView d_ln2 = Prefix(args.temporaries.d_width, a.ln2.shape());
  const TensorView gelu = a.up;    // in its place
  LinearBackward(ctx, {.x = a.up,  // of this shape; only dx is asked for
                       .weight = w.down,
                       .dy = dy,
                       .dx = d_mlp,
                       .dweight = {},
                       .dbias = {},
                       .grad_mode = args.grad_mode});
  BiasGeluBackward(ctx, {.x = a.up,
                         .bias = w.up_bias,
                         .dy = d_mlp,
                         .dx = d_mlp,
                         .dbias = g.up_bias,
                         .y = gelu,
                         .kind = args.block.gelu,
                         .grad_mode = args.grad_mode});
  LinearBackward(ctx, {.x = gelu,
                       .weight = w.down,
                       .dy = dy,
                       .dx = {},
                       .dweight = g.down,
                       .dbias = {},
                       .grad_mode = args.grad_mode});
  LinearBackward(ctx, {.x = a.ln2,
                       .weight = w.up,
                       .dy = d_mlp,
                       .dx = d_ln2,
                       .dweight = g.up,
                       .dbias = {},
                       .grad_mode = args.grad_mode});
  LayerNormBackward(ctx, {.x = x,
                          .gamma = w.ln2_gamma,
                          .mean = a.mean2,
                          .rstd = a.rstd2,
                          .dy = d_ln2,
                          .dx = dpartial,
                          .dgamma = g.ln2_gamma,
                          .dbeta = g.ln2_beta,
                          .dx_mode = mode,
                          .grad_mode = args.grad_mode});
}

// y = x + attention(ln1(x)) + mlp(ln2(x)); both halves meet in one reduction.
void ParallelForward(Context& ctx, const BlockForwardArgs& args) {
  const BlockWeights& w = args.weights;
  const TensorView partial = Prefix(args.temporaries.partial, args.x.shape());
  AttentionForward(ctx, args, args.x, partial, GradMode::kOverwrite);
  MlpForward(ctx, args, args.x, partial, GradMode::kAccumulate);
  SumOverTensorRanks(ctx, args.block, partial, "block.forward");
  AddBiasResidualForward(ctx, {args.x, partial, w.dense_bias, w.down_bias, args.y});
}

void ParallelBackward(Context& ctx, const BlockBackwardArgs& args) {
  const BlockGradients& g = args.gradients;
  const TensorView dy = args.dx;
  const TensorView dpartial = Prefix(args.temporaries.partial, dy.shape());
  AddBiasResidualBackward(ctx, {dy, g.dense_bias, g.down_bias, args.grad_mode});
  MlpBackward(ctx, args, args.x, dy, dpartial, GradMode::kOverwrite);
  AttentionBackward(ctx, args, args.x, dy, dpartial, GradMode::kAccumulate);
  SumOverTensorRanks(ctx, args.block, dpartial, "block.backward");
  Add(ctx, {.a = dy, .b = dpartial, .y = args.dx});
}

// m = x + attention(ln1(x)); y = m + mlp(ln2(m)).
void SequentialForward(Context& ctx, const BlockForwardArgs& args) {
  const BlockWeights& w = args.weights;
  const TensorView partial = Prefix(args.temporaries.partial, args.x.shape());
  const TensorView middle = args.activations.middle;
  AttentionForward(ctx, args, args.x, partial, GradMode::kOverwrite);
  SumOverTensorRanks(ctx, args.block, partial, "block.attention.forward");
  AddBiasResidualForward(ctx, {args.x, partial, w.dense_bias, /*bias2=*/{}, middle});
  MlpForward(ctx, args, middle, partial, GradMode::kOverwrite);
  SumOverTensorRanks(ctx, args.block, partial, "block.mlp.forward");
  AddBiasResidualForward(ctx, {middle, partial, w.down_bias, /*bias2=*/{}, args.y});
}

void SequentialBackward(Context& ctx, const BlockBackwardArgs& args) {
  const BlockGradients& g = args.gradients;
  const TensorView dy = args.dx;
  const TensorView dmiddle = args.dx;
  const TensorView dpartial = Prefix(args.temporaries.partial, dy.shape());
  AddBiasResidualBackward(ctx, {dy, g.down_bias, /*dbias2=*/{}, args.grad_mode});
  MlpBackward(ctx, args, args.activations.middle, dy, dpartial, GradMode::kOverwrite);
  SumOverTensorRanks(ctx, args.block, dpartial, "block.mlp.backward");
  Add(ctx, {.a = dy, .b = dpartial, .y = dmiddle});
  AddBiasResidualBackward(ctx, {dmiddle, g.dense_bias, /*dbias2=*/{}, args.grad_mode});
  AttentionBackward(ctx, args, args.x, dmiddle, dpartial, GradMode::kOverwrite);
  SumOverTensorRanks(ctx, args.block, dpartial, "block.attention.backward");
  Add(ctx, {.a = dmiddle, .b = dpartial, .y = args.dx});
}

}  // namespace

void BlockForward(Context& ctx, const BlockForwardArgs& args) {
  args.block.parallel_residual ? ParallelForward(ctx, args) : SequentialForward(ctx, args);
}

void BlockBackward(Context& ctx, const BlockBackwardArgs& args) {
  args.block.parallel_residual ? ParallelBackward(ctx, args) : SequentialBackward(ctx, args);
}

}  // namespace sepia::model
