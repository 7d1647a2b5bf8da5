#include "tools/gpu_check/op_checks.h"

#include <fmt/format.h>

#include "base/attention_index.h"
#include "base/device_memory.h"
#include "kernels/cached_attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/gelu.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/lm_head.h"
#include "kernels/optimizer.h"
#include "kernels/rotary.h"
#include "kernels/sep_attention.h"

namespace sepia::tools::gpu_check {
namespace {

using namespace kernels;  // NOLINT: every line below is one of its ops

struct Shapes {
  Shapes(const CheckSizes& s, DType type)
      : dtype(type), b(s.batch), t(s.seq), h(s.heads), v(s.vocabulary), m(b * t), c(64 * h) {}
  DType dtype;
  int64_t b, t, h, v, m, c;
};

double Terms(int64_t count) { return static_cast<double>(count); }

void Linear(Side& side, const Shapes& s) {
  const int64_t n = 3 * s.c;
  const TensorView x = side.Random(s.dtype, {s.m, s.c}), w = side.Random(s.dtype, {n, s.c}),
                   bias = side.Random(s.dtype, {n}), dy = side.Random(s.dtype, {s.m, n}),
                   y = side.Zeros(s.dtype, {s.m, n}), dx = side.Zeros(s.dtype, {s.m, s.c}),
                   dw = side.Random(DType::kFloat32, {n, s.c}),
                   db = side.Random(DType::kFloat32, {n});
  side.Reserve(LinearScratchBytes(s.m, n, s.c, s.dtype, side.ctx().num_threads, side.device()));
  const Weight weight = {.canonical = w, .version = 1};
  LinearForward(side.ctx(), {.x = x, .weight = weight, .bias = bias, .y = y});
  LinearBackward(side.ctx(), {.x = x,
                              .weight = weight,
                              .dy = dy,
                              .dx = dx,
                              .dweight = dw,
                              .dbias = db,
                              .grad_mode = GradMode::kAccumulate});
  side.Compare("y", y, Terms(s.c));
  side.Compare("dx", dx, Terms(n));
  side.Compare("dweight", dw, Terms(s.m));
  side.Compare("dbias", db, Terms(s.m));
}

void LayerNorm(Side& side, const Shapes& s) {
  const TensorView x = side.Random(s.dtype, {s.m, s.c}), gamma = side.Random(s.dtype, {s.c}),
                   beta = side.Random(s.dtype, {s.c}), dy = side.Random(s.dtype, {s.m, s.c}),
                   y = side.Zeros(s.dtype, {s.m, s.c}), dx = side.Zeros(s.dtype, {s.m, s.c}),
                   mean = side.Zeros(DType::kFloat32, {s.m}),
                   rstd = side.Zeros(DType::kFloat32, {s.m}),
                   dgamma = side.Zeros(DType::kFloat32, {s.c}),
                   dbeta = side.Zeros(DType::kFloat32, {s.c});
  side.Reserve(LayerNormScratchBytes(s.m, s.c, side.device()));
  LayerNormForward(side.ctx(), {x, gamma, beta, y, mean, rstd, 1e-5f});
  LayerNormBackward(side.ctx(), {.x = x,
                                 .gamma = gamma,
                                 .mean = mean,
                                 .rstd = rstd,
                                 .dy = dy,
                                 .dx = dx,
                                 .dgamma = dgamma,
                                 .dbeta = dbeta,
                                 .grad_mode = GradMode::kOverwrite});
  side.Compare("y", y, Terms(s.c));
  side.Compare("dx", dx, Terms(s.c));
  side.Compare("dgamma", dgamma, Terms(s.m));
  side.Compare("dbeta", dbeta, Terms(s.m));
}

void Gelu(Side& side, const Shapes& s, GeluKind kind) {
  const TensorView x = side.Random(s.dtype, {s.m, s.c}), bias = side.Random(s.dtype, {s.c}),
                   dy = side.Random(s.dtype, {s.m, s.c}), y = side.Zeros(s.dtype, {s.m, s.c}),
                   dx = side.Zeros(s.dtype, {s.m, s.c}), dbias = side.Zeros(DType::kFloat32, {s.c});
  side.Reserve(BiasGeluScratchBytes(s.m, s.c, side.device()));
  BiasGeluForward(side.ctx(), {x, bias, y, kind});
  BiasGeluBackward(side.ctx(), {.x = x,
                                .bias = bias,
                                .dy = dy,
                                .dx = dx,
                                .dbias = dbias,
                                .y = x,
                                .kind = kind,
                                .grad_mode = GradMode::kOverwrite});
  side.Compare("y", y, 16);
  side.Compare("y in the place of x", x, 16);
  side.Compare("dx", dx, 16);
  side.Compare("dbias", dbias, Terms(s.m));
}

void Residual(Side& side, const Shapes& s) {
  const TensorView x = side.Random(s.dtype, {s.m, s.c}), partial = side.Random(s.dtype, {s.m, s.c}),
                   bias1 = side.Random(s.dtype, {s.c}), bias2 = side.Random(s.dtype, {s.c}),
                   y = side.Zeros(s.dtype, {s.m, s.c}), dbias1 = side.Zeros(DType::kFloat32, {s.c}),
                   dbias2 = side.Zeros(DType::kFloat32, {s.c}),
                   sum = side.Zeros(s.dtype, {s.m, s.c}),
                   cast = side.Zeros(DType::kFloat32, {s.m, s.c});
  side.Reserve(ColumnSumScratchBytes(s.m, s.c, side.device()));
  AddBiasResidualForward(side.ctx(), {x, partial, bias1, bias2, y});
  AddBiasResidualBackward(side.ctx(), {x, dbias1, dbias2, GradMode::kOverwrite});
  Add(side.ctx(), {x, partial, sum});
  Cast(side.ctx(), sum, cast);
  side.Compare("y", y, 4);
  side.Compare("dbias1", dbias1, Terms(s.m));
  side.Compare("dbias2", dbias2, Terms(s.m));
  side.Compare("cast sum", cast, 1, 2);
}

void Embedding(Side& side, const Shapes& s) {
  const TensorView tokens = side.Integers({s.b, s.t}, static_cast<int32_t>(s.v)),
                   table = side.Random(s.dtype, {s.v, s.c}),
                   dy = side.Random(s.dtype, {s.b, s.t, s.c}),
                   y = side.Zeros(s.dtype, {s.b, s.t, s.c}),
                   dtable = side.Random(DType::kFloat32, {s.v, s.c});
  side.Reserve(EmbeddingScratchBytes(s.m, s.v, side.device()));
  EmbeddingForward(side.ctx(), {.tokens = tokens, .table = table, .y = y});
  EmbeddingBackward(
      side.ctx(),
      {.tokens = tokens, .dy = dy, .dtable = dtable, .grad_mode = GradMode::kAccumulate});
  side.Compare("y", y, 0);
  side.Compare("dtable", dtable, 8);
}

void Rotary(Side& side, const Shapes& s) {
  const TensorView qkv = side.Random(s.dtype, {s.b, s.t, s.h, 3, 64}),
                   angles = side.Random(DType::kFloat32, {s.t, 8}),
                   sines = side.Random(DType::kFloat32, {s.t, 8});
  RotaryForward(side.ctx(), {qkv, angles, sines});
  RotaryBackward(side.ctx(), {qkv, angles, sines});
  side.Compare("qkv", qkv, 4, 3);
}

void LmHead(Side& side, const Shapes& s) {
  const TensorView x = side.Random(s.dtype, {s.m, s.c}), w = side.Random(s.dtype, {s.v, s.c}),
                   targets = side.Integers({s.m}, static_cast<int32_t>(s.v)),
                   loss = side.Zeros(DType::kFloat64, {1}), grad_scale = side.Value(0.5f),
                   dx = side.Zeros(s.dtype, {s.m, s.c}),
                   dw = side.Zeros(DType::kFloat32, {s.v, s.c}),
                   logits = side.Zeros(DType::kFloat32, {s.m, s.v});
  side.Reserve(
      LmHeadScratchBytes(s.m, s.c, s.v, s.dtype, side.ctx().num_threads, 1, side.device()));
  const Weight weight = {.canonical = w, .version = 1};
  LmHeadLogits(side.ctx(), {x, weight, logits});
  LmHeadLoss(side.ctx(), {.x = x,
                          .weight = weight,
                          .targets = targets,
                          .loss_mask = {},
                          .loss_sum = loss,
                          .loss_mode = GradMode::kOverwrite,
                          .grad_scale = grad_scale,
                          .dx = dx,
                          .dweight = dw});
  side.Compare("logits", logits, Terms(s.c));
  side.Compare("loss", loss, Terms(s.c + s.v));
  side.Compare("dx", dx, Terms(s.v + s.c), 2);
  side.Compare("dweight", dw, Terms(s.m + s.c), 2);
}

void Optimizer(Side& side, const Shapes& s) {
  const Shape shape{s.c, s.c};
  const TensorView values = side.Random(DType::kFloat32, shape),
                   grad = side.Random(DType::kFloat32, shape),
                   squared = side.Zeros(DType::kFloat64, {1}), scale = side.Value(4.0f),
                   norm = side.Zeros(DType::kFloat64, {1}),
                   multiplier = side.Zeros(DType::kFloat32, {1}),
                   skip = side.Zeros(DType::kInt32, {1});
  const auto master_dtype = MasterDType(s.dtype);
  const OptimizerState state = {
      .weight = side.Zeros(s.dtype, shape),
      .master = master_dtype ? side.Zeros(*master_dtype, shape) : TensorView(),
      .exp_avg = side.Zeros(DType::kFloat32, shape),
      .exp_avg_sq = side.Zeros(DType::kFloat32, shape)};
  WriteValues(state, StateRole::kMaster, OnHost(values));
  side.Reserve(SquaredNormScratchBytes(s.c * s.c, side.device()));
  SquaredNorm(side.ctx(), {grad, squared, GradMode::kOverwrite});
  ClipFactor(side.ctx(), {squared, scale, 1.0, norm, multiplier, skip});
  AdamWUpdate(side.ctx(), {.state = state,
                           .grad = grad,
                           .grad_multiplier = multiplier,
                           .skip = skip,
                           .lr = 1e-3,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .weight_decay = 0.1,
                           .t = 1});
  side.Compare("norm", norm, 8);
  side.Compare("grad_multiplier", multiplier, 8);
  const auto compare = [&](const char* name, StateRole role) {
    const TensorView read = side.Zeros(DType::kFloat32, shape);
    WriteFromHost(read, [&](const TensorView& host) { ReadValues(state, role, host); });
    side.Compare(name, read, 16);
  };
  compare("master", StateRole::kMaster);
  compare("exp_avg_sq", StateRole::kExpAvgSq);
  side.Compare("skip", skip, 0);
}

// One token in six a separator.
AttentionIndex Index(int64_t batch_size, int64_t seq_length, AttentionKind kind) {
  std::vector<int32_t> tokens(static_cast<size_t>(batch_size * seq_length));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i * 2654435761u % 6 == 0 ? 1 : 0;
  return AttentionIndex(tokens, batch_size, seq_length,
                        {.kind = kind,
                         .num_initial = kind == AttentionKind::kFull ? 0 : 3,
                         .separator_ids = kind == AttentionKind::kSep ? std::vector<int32_t>{1}
                                                                      : std::vector<int32_t>()});
}

void Attention(Side& side, const Shapes& s, AttentionKind kind, int64_t head_dim) {
  const AttentionIndex index = Index(s.b, s.t, kind);
  const int64_t window = kind == AttentionKind::kFull ? s.t : 64;
  const TensorView qkv = side.Random(s.dtype, {s.b, s.t, s.h, 3, head_dim}),
                   dout = side.Random(s.dtype, {s.b, s.t, s.h, head_dim}),
                   out = side.Zeros(s.dtype, {s.b, s.t, s.h, head_dim}),
                   lse = side.Zeros(DType::kFloat32, {s.b, s.h, s.t}),
                   dqkv = side.Zeros(s.dtype, {s.b, s.t, s.h, 3, head_dim});
  side.Reserve(SepAttentionScratchBytes(
      {s.b, s.t, s.h, head_dim, s.dtype, side.ctx().num_threads, side.device()}));
  SepAttentionForward(side.ctx(), {qkv, &index, window, out, lse});
  SepAttentionBackward(side.ctx(), {qkv, &index, window, out, lse, dout, dqkv});
  side.Compare("lse", lse, Terms(head_dim + s.t));
  side.Compare("out", out, Terms(head_dim + s.t), 3);
  side.Compare("dqkv", dqkv, Terms(head_dim + s.t), 4);
}

// A step of generation: `num_new` tokens behind T - num_new others.
void GenerationStep(Side& side, const Shapes& s, AttentionKind kind, int64_t head_dim,
                    int64_t num_new) {
  const AttentionIndex index = Index(1, s.t, kind);
  const auto keep = [&](std::span<const int32_t> values) {
    const TensorView kept = side.Zeros(DType::kInt32, {s.t});
    WriteFromHost(kept, [&](const TensorView& host) {
      std::copy(values.begin(), values.end(), host.data<int32_t>());
    });
    return kept;
  };
  const TensorView positions = keep(index.positions(0)), count = keep(index.count(0)),
                   qkv = side.Random(s.dtype, {num_new, s.h, 3, head_dim}),
                   keys = side.Random(s.dtype, {s.t, s.h, head_dim}),
                   values = side.Random(s.dtype, {s.t, s.h, head_dim}),
                   out = side.Zeros(s.dtype, {num_new, s.h, head_dim});
  side.Reserve(CachedAttentionScratchBytes({.num_new = num_new,
                                            .length = s.t,
                                            .num_heads = s.h,
                                            .head_dim = head_dim,
                                            .dtype = s.dtype,
                                            .num_threads = side.ctx().num_threads,
                                            .device = side.device()}));
  CachedAttention(side.ctx(), {.qkv = qkv,
                               .begin = s.t - num_new,
                               .index = &index,
                               .far_keys = {positions, count},
                               .window = kind == AttentionKind::kFull ? s.t : 64,
                               .keys = keys,
                               .values = values,
                               .out = out});
  side.Compare("keys", keys, 0);
  side.Compare("values", values, 0);
  side.Compare("out", out, Terms(head_dim + s.t));
}

constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

}  // namespace

std::vector<Finding> CheckOps(const CheckSizes& sizes) {
  std::vector<Finding> findings;
  for (const DType dtype : kDTypes) {
    const Shapes s(sizes, dtype);
    const auto check = [&](const std::string& name, const std::function<void(Side&)>& run) {
      findings.push_back(CompareOnDevice(name, dtype, run));
    };
    check("linear", [&](Side& side) { Linear(side, s); });
    check("layer norm", [&](Side& side) { LayerNorm(side, s); });
    check("bias + tanh gelu", [&](Side& side) { Gelu(side, s, GeluKind::kTanh); });
    check("bias + erf gelu", [&](Side& side) { Gelu(side, s, GeluKind::kErf); });
    check("residual, add, cast", [&](Side& side) { Residual(side, s); });
    check("embedding", [&](Side& side) { Embedding(side, s); });
    check("rotary", [&](Side& side) { Rotary(side, s); });
    check("lm head and loss", [&](Side& side) { LmHead(side, s); });
    check("norm, clip, AdamW", [&](Side& side) { Optimizer(side, s); });
    for (const int64_t head_dim : {32, 64, 80, 128, 256}) {
      if (dtype == DType::kFloat32 && head_dim != 64) continue;
      check(fmt::format("Sep-Attention D={}", head_dim),
            [&](Side& side) { Attention(side, s, AttentionKind::kSep, head_dim); });
    }
    check("streaming attention D=64",
          [&](Side& side) { Attention(side, s, AttentionKind::kStreaming, 64); });
    check("dense attention D=64",
          [&](Side& side) { Attention(side, s, AttentionKind::kFull, 64); });
    for (const int64_t head_dim : {32, 64, 80, 128, 256}) {
      check(fmt::format("cached Sep-Attention D={}", head_dim), [&](Side& side) {
        GenerationStep(side, s, AttentionKind::kSep, head_dim, /*num_new=*/1);
      });
    }
    for (const int64_t num_new : {1, 5}) {
      check(fmt::format("cached dense attention of {}", num_new),
            [&](Side& side) { GenerationStep(side, s, AttentionKind::kFull, 64, num_new); });
    }
  }
  return findings;
}

std::vector<Finding> CheckDeterminism(const CheckSizes& sizes) {
  const Shapes s(sizes, DType::kBFloat16);
  return {SameBitsOnDevice("linear", [&](Side& side) { Linear(side, s); }),
          SameBitsOnDevice("layer norm", [&](Side& side) { LayerNorm(side, s); }),
          SameBitsOnDevice("embedding", [&](Side& side) { Embedding(side, s); }),
          SameBitsOnDevice("lm head and loss", [&](Side& side) { LmHead(side, s); }),
          SameBitsOnDevice("norm, clip, AdamW", [&](Side& side) { Optimizer(side, s); }),
          SameBitsOnDevice("Sep-Attention D=64",
                           [&](Side& side) { Attention(side, s, AttentionKind::kSep, 64); }),
          SameBitsOnDevice("Sep-Attention D=128",
                           [&](Side& side) { Attention(side, s, AttentionKind::kSep, 128); }),
          SameBitsOnDevice("cached dense attention", [&](Side& side) {
            GenerationStep(side, s, AttentionKind::kFull, 64, /*num_new=*/1);
          })};
}

}  // namespace sepia::tools::gpu_check
