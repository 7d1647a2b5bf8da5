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

// The rows of a chunk in a tensor that has all of them.
TensorView Cut(TensorView x, const RowChunk& chunk) { return x.Rows(chunk.begin, chunk.rows); }
ConstTensorView Cut(ConstTensorView x, const RowChunk& chunk) {
  return x.Rows(chunk.begin, chunk.rows);
}

// Chunks add up: the first one begins the weight gradients as the whole would.
GradMode ModeOf(const BlockBackwardArgs& args, const RowChunk& chunk) {
  return chunk.index == 0 ? args.grad_mode : GradMode::kAccumulate;
}

// One of the two LayerNorms of a block.
struct NormTensors {
  ConstTensorView gamma, beta;
  TensorView y, mean, rstd;  // all rows
};
NormTensors Norm1(const BlockWeights& w, const BlockActivations& a) {
  return {w.ln1_gamma, w.ln1_beta, a.ln1, a.mean1, a.rstd1};
}
NormTensors Norm2(const BlockWeights& w, const BlockActivations& a) {
  return {w.ln2_gamma, w.ln2_beta, a.ln2, a.mean2, a.rstd2};
}

void NormForward(Context& ctx, const BlockContext& b, const NormTensors& norm, ConstTensorView x,
                 const RowChunk& c) {
  LayerNormForward(ctx, {.x = Cut(x, c),
                         .gamma = norm.gamma,
                         .beta = norm.beta,
                         .y = Cut(norm.y, c),
                         .mean = Cut(norm.mean, c),
                         .rstd = Cut(norm.rstd, c),
                         .eps = b.layer_norm_eps});
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
                        .far_keys = b.cache->far_keys,
                        .window = b.window,
                        .keys = b.cache->keys,
                        .values = b.cache->values,
                        .out = Prefix(a.attention, {rows, heads, head_dim})});
}

// attention(rotary(qkv(ln1(x)))).
void AttentionForward(Context& ctx, const BlockForwardArgs& args, GatheredRows& x) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const BlockContext& b = args.block;
  for (const RowChunk& c : b.rows.chunks()) {
    x.Wait(c);
    NormForward(ctx, b, Norm1(w, a), x.rows(), c);
    LinearForward(
        ctx, {.x = Cut(a.ln1, c), .weight = w.qkv, .bias = w.qkv_bias, .y = Cut(Matrix(a.qkv), c)});
  }
  RotaryForward(ctx, {.qkv = a.qkv, .cos = b.cos, .sin = b.sin});
  AttentionCore(ctx, b, a);
}

// partial = dense(attention) without dense's bias.
void DenseForward(Context& ctx, const BlockForwardArgs& args, TensorView partial,
                  const RowChunk& c) {
  LinearForward(ctx, {.x = Cut(Matrix(args.activations.attention), c),
                      .weight = args.weights.dense,
                      .bias = {},
                      .y = Cut(partial, c)});
}

// d_qkv and the gradients of dense, given the gradient dy of DenseForward's result.
void AttentionBackward(Context& ctx, const BlockBackwardArgs& args, GatheredRows& dy) {
  const BlockActivations& a = args.activations;
  const BlockContext& b = args.block;
  const TensorView d_attention = Prefix(args.temporaries.d_width, a.attention.shape());
  const TensorView d_qkv = Prefix(args.temporaries.wide, a.qkv.shape());
  for (const RowChunk& c : b.rows.chunks()) {
    dy.Wait(c);
    LinearBackward(ctx, {.x = Cut(Matrix(a.attention), c),
                         .weight = args.weights.dense,
                         .dy = Cut(dy.rows(), c),
                         .dx = Cut(Matrix(d_attention), c),
                         .dweight = args.gradients.dense,
                         .dbias = {},
                         .grad_mode = ModeOf(args, c)});
  }
  SepAttentionBackward(ctx, {.qkv = a.qkv,
                             .index = b.index,
                             .window = b.window,
                             .out = a.attention,
                             .lse = a.lse,
                             .dout = d_attention,
                             .dqkv = d_qkv});
  RotaryBackward(ctx, {.qkv = d_qkv, .cos = b.cos, .sin = b.sin});
}

// dpartial (+)= gradient of ln1's input, given d_qkv.
void QkvBackward(Context& ctx, const BlockBackwardArgs& args, ConstTensorView x,
                 TensorView dpartial, GradMode mode, const RowChunk& c) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const BlockGradients& g = args.gradients;
  const TensorView d_qkv = Prefix(args.temporaries.wide, a.qkv.shape());
  const TensorView d_ln1 = Prefix(args.temporaries.d_width, a.ln1.shape());
  if (args.block.recompute_norms) NormForward(ctx, args.block, Norm1(w, a), x, c);
  LinearBackward(ctx, {.x = Cut(a.ln1, c),
                       .weight = w.qkv,
                       .dy = Cut(Matrix(d_qkv), c),
                       .dx = Cut(d_ln1, c),
                       .dweight = g.qkv,
                       .dbias = g.qkv_bias,
                       .grad_mode = ModeOf(args, c)});
  LayerNormBackward(ctx, {.x = Cut(x, c),
                          .gamma = w.ln1_gamma,
                          .mean = Cut(a.mean1, c),
                          .rstd = Cut(a.rstd1, c),
                          .dy = Cut(d_ln1, c),
                          .dx = Cut(dpartial, c),
                          .dgamma = g.ln1_gamma,
                          .dbeta = g.ln1_beta,
                          .dx_mode = mode,
                          .grad_mode = ModeOf(args, c)});
}

// partial (+)= down(gelu(up(ln2(x)))) without down's bias.
void MlpForward(Context& ctx, const BlockForwardArgs& args, ConstTensorView x, TensorView partial,
                GradMode mode, const RowChunk& c) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const TensorView gelu = Cut(Prefix(args.temporaries.wide, a.up.shape()), c);
  NormForward(ctx, args.block, Norm2(w, a), x, c);
  LinearForward(ctx, {.x = Cut(a.ln2, c), .weight = w.up, .bias = {}, .y = Cut(a.up, c)});
  BiasGeluForward(ctx, {.x = Cut(a.up, c), .bias = w.up_bias, .y = gelu, .kind = args.block.gelu});
  LinearForward(ctx, {.x = gelu, .weight = w.down, .bias = {}, .y = Cut(partial, c), .mode = mode});
}

// dpartial = gradient of ln2's input, given the gradient dy of MlpForward's result.
void MlpBackward(Context& ctx, const BlockBackwardArgs& args, ConstTensorView x, ConstTensorView dy,
                 TensorView dpartial, const RowChunk& c) {
  const BlockWeights& w = args.weights;
  const BlockActivations& a = args.activations;
  const BlockGradients& g = args.gradients;
  const TensorView d_mlp = Cut(Prefix(args.temporaries.wide, a.up.shape()), c);
  const TensorView d_ln2 = Cut(Prefix(args.temporaries.d_width, a.ln2.shape()), c);
  const TensorView gelu = Cut(a.up, c);  // in its place
  const GradMode grad_mode = ModeOf(args, c);
  if (args.block.recompute_norms) NormForward(ctx, args.block, Norm2(w, a), x, c);
  LinearBackward(ctx, {.x = gelu,  // of this shape; only dx is asked for
                       .weight = w.down,
                       .dy = Cut(dy, c),
                       .dx = d_mlp,
                       .dweight = {},
                       .dbias = {},
                       .grad_mode = grad_mode});
  BiasGeluBackward(ctx, {.x = Cut(a.up, c),
                         .bias = w.up_bias,
                         .dy = d_mlp,
                         .dx = d_mlp,
                         .dbias = g.up_bias,
                         .y = gelu,
                         .kind = args.block.gelu,
                         .grad_mode = grad_mode});
  LinearBackward(ctx, {.x = gelu,
                       .weight = w.down,
                       .dy = Cut(dy, c),
                       .dx = {},
                       .dweight = g.down,
                       .dbias = {},
                       .grad_mode = grad_mode});
  LinearBackward(ctx, {.x = Cut(a.ln2, c),
                       .weight = w.up,
                       .dy = d_mlp,
                       .dx = d_ln2,
                       .dweight = g.up,
                       .dbias = {},
                       .grad_mode = grad_mode});
  LayerNormBackward(ctx, {.x = Cut(x, c),
                          .gamma = w.ln2_gamma,
                          .mean = Cut(a.mean2, c),
                          .rstd = Cut(a.rstd2, c),
                          .dy = d_ln2,
                          .dx = Cut(dpartial, c),
                          .dgamma = g.ln2_gamma,
                          .dbeta = g.ln2_beta,
                          .grad_mode = grad_mode});
}

// The sum over ranks of what a half (or both) computed, in the memory that all calls share.
RowSum SumOf(const BlockContext& block, const BlockTemporaries& t, ConstTensorView own_rows,
             std::string_view label) {
  const int64_t width = own_rows.dim(1);
  return block.rows.Sum(Prefix(t.partial, {block.rows.padded_rows(), width}),
                        Prefix(t.own, own_rows.shape()), label);
}

// y = x + attention(ln1(x)) + mlp(ln2(x)); both halves meet in one reduction.
void ParallelForward(Context& ctx, const BlockForwardArgs& args) {
  const BlockWeights& w = args.weights;
  const ResidualRows& rows = args.block.rows;
  GatheredRows x = rows.Gather(ctx, args.x, args.temporaries.x, "block.forward");
  RowSum sum = SumOf(args.block, args.temporaries, args.x, "block.forward");
  AttentionForward(ctx, args, x);
  for (const RowChunk& c : rows.chunks()) {
    DenseForward(ctx, args, sum.partial(), c);
    MlpForward(ctx, args, x.rows(), sum.partial(), GradMode::kAccumulate, c);
    sum.Start(ctx, c);
  }
  AddBiasResidualForward(ctx, {args.x, sum.Wait(), w.dense_bias, w.down_bias, args.y});
}

void ParallelBackward(Context& ctx, const BlockBackwardArgs& args) {
  const BlockGradients& g = args.gradients;
  const ResidualRows& rows = args.block.rows;
  GatheredRows dy = rows.Gather(ctx, args.dx, args.temporaries.dy, "block.backward.dy");
  GatheredRows x = rows.Gather(ctx, args.x, args.temporaries.x, "block.backward.x");
  RowSum sum = SumOf(args.block, args.temporaries, args.x, "block.backward");
  for (const RowChunk& c : rows.chunks()) {
    dy.Wait(c);
    x.Wait(c);
    MlpBackward(ctx, args, x.rows(), dy.rows(), sum.partial(), c);
  }
  AddBiasResidualBackward(ctx, {dy.rows(), g.dense_bias, g.down_bias, args.grad_mode});
  AttentionBackward(ctx, args, dy);
  for (const RowChunk& c : rows.chunks()) {
    QkvBackward(ctx, args, x.rows(), sum.partial(), GradMode::kAccumulate, c);
    sum.Start(ctx, c);
  }
  Add(ctx, {.a = args.dx, .b = sum.Wait(), .y = args.dx});
}

// m = x + attention(ln1(x)); y = m + mlp(ln2(m)).
void SequentialForward(Context& ctx, const BlockForwardArgs& args) {
  const BlockWeights& w = args.weights;
  const ResidualRows& rows = args.block.rows;
  const TensorView middle = args.activations.middle;
  GatheredRows x = rows.Gather(ctx, args.x, args.temporaries.x, "block.attention.forward");
  RowSum attention = SumOf(args.block, args.temporaries, args.x, "block.attention.forward");
  AttentionForward(ctx, args, x);
  for (const RowChunk& c : rows.chunks()) {
    DenseForward(ctx, args, attention.partial(), c);
    attention.Start(ctx, c);
  }
  AddBiasResidualForward(ctx, {args.x, attention.Wait(), w.dense_bias, /*bias2=*/{}, middle});
  GatheredRows m = rows.Gather(ctx, middle, args.temporaries.x, "block.mlp.forward");
  RowSum mlp = SumOf(args.block, args.temporaries, args.x, "block.mlp.forward");
  for (const RowChunk& c : rows.chunks()) {
    m.Wait(c);
    MlpForward(ctx, args, m.rows(), mlp.partial(), GradMode::kOverwrite, c);
    mlp.Start(ctx, c);
  }
  AddBiasResidualForward(ctx, {middle, mlp.Wait(), w.down_bias, /*bias2=*/{}, args.y});
}

void SequentialBackward(Context& ctx, const BlockBackwardArgs& args) {
  const BlockGradients& g = args.gradients;
  const BlockTemporaries& t = args.temporaries;
  const ResidualRows& rows = args.block.rows;
  GatheredRows dy = rows.Gather(ctx, args.dx, t.dy, "block.mlp.backward.dy");
  GatheredRows m = rows.Gather(ctx, args.activations.middle, t.x, "block.mlp.backward.x");
  RowSum mlp = SumOf(args.block, t, args.x, "block.mlp.backward");
  for (const RowChunk& c : rows.chunks()) {
    dy.Wait(c);
    m.Wait(c);
    MlpBackward(ctx, args, m.rows(), dy.rows(), mlp.partial(), c);
    mlp.Start(ctx, c);
  }
  AddBiasResidualBackward(ctx, {dy.rows(), g.down_bias, /*dbias2=*/{}, args.grad_mode});
  Add(ctx, {.a = args.dx, .b = mlp.Wait(), .y = args.dx});
  GatheredRows dm = rows.Gather(ctx, args.dx, t.dy, "block.attention.backward.dy");
  GatheredRows x = rows.Gather(ctx, args.x, t.x, "block.attention.backward.x");
  RowSum attention = SumOf(args.block, t, args.x, "block.attention.backward");
  AttentionBackward(ctx, args, dm);
  AddBiasResidualBackward(ctx, {dm.rows(), g.dense_bias, /*dbias2=*/{}, args.grad_mode});
  for (const RowChunk& c : rows.chunks()) {
    x.Wait(c);
    QkvBackward(ctx, args, x.rows(), attention.partial(), GradMode::kOverwrite, c);
    attention.Start(ctx, c);
  }
  Add(ctx, {.a = args.dx, .b = attention.Wait(), .y = args.dx});
}

}  // namespace

void BlockForward(Context& ctx, const BlockForwardArgs& args) {
  args.block.parallel_residual ? ParallelForward(ctx, args) : SequentialForward(ctx, args);
}

void BlockBackward(Context& ctx, const BlockBackwardArgs& args) {
  args.block.parallel_residual ? ParallelBackward(ctx, args) : SequentialBackward(ctx, args);
}

}  // namespace sepia::model
