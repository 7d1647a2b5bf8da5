// Matrix products, embedding, rotary embedding, attention and the LM head: from tensors to device
// pointers.
#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>

#include "kernels/cuda/cached_attention.h"
#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/model_ops.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/sep_attention.h"

namespace sepia::kernels::cuda {
namespace {

constexpr double kLog2E = 1.4426950408889634;

bool Adds(GradMode mode) { return mode == GradMode::kAccumulate; }

MatrixOperand Operand(const ConstTensorView& matrix, bool transposed = false) {
  return {.data = Data(matrix), .stride = matrix.dim(1), .transposed = transposed};
}

// y [M, N] (+)= x [M, K] w [N, K]^T (+ bias).
void MultiplyByWeight(const ConstTensorView& x, const ConstTensorView& w,
                      const ConstTensorView& bias, const TensorView& y, GradMode mode) {
  Runtime::Get().Multiply({.dtype = x.dtype(),
                           .out_dtype = y.dtype(),
                           .m = x.dim(0),
                           .n = w.dim(0),
                           .k = x.dim(1),
                           .a = Operand(x),
                           .b = Operand(w, /*transposed=*/true),
                           .out = Data(y),
                           .out_stride = y.dim(1),
                           .accumulate = Adds(mode),
                           .epilogue = bias.empty() ? Epilogue::kNone : Epilogue::kBias,
                           .bias = Data(bias)});
}

// dx [M, K] (+)= dy [M, N] w [N, K]; dw [N, K] (+)= dy^T x [M, K]. `dy` may have longer rows.
struct WeightGradients {
  ConstTensorView x, w;
  MatrixOperand dy;
  TensorView dx;  // or empty
  GradMode dx_mode;
  TensorView dw;  // or empty
  GradMode dw_mode;
};

void MultiplyBackward(const WeightGradients& g) {
  const int64_t m = g.x.dim(0), k = g.x.dim(1), n = g.w.dim(0);
  if (m == 0) {  // sums of nothing
    if (!g.dw.empty() && !Adds(g.dw_mode)) FillBytes(g.dw, 0);
    return;
  }
  const DType dtype = g.x.dtype();
  if (!g.dx.empty()) {
    Runtime::Get().Multiply({.dtype = dtype,
                             .out_dtype = dtype,
                             .m = m,
                             .n = k,
                             .k = n,
                             .a = g.dy,
                             .b = Operand(g.w),
                             .out = Data(g.dx),
                             .out_stride = k,
                             .accumulate = Adds(g.dx_mode)});
  }
  if (g.dw.empty()) return;
  MatrixOperand dy = g.dy;
  dy.transposed = true;
  Runtime::Get().Multiply({.dtype = dtype,
                           .out_dtype = DType::kFloat32,
                           .m = n,
                           .n = k,
                           .k = m,
                           .a = dy,
                           .b = Operand(g.x),
                           .out = Data(g.dw),
                           .out_stride = k,
                           .accumulate = Adds(g.dw_mode)});
}

}  // namespace

void LinearForward(Context&, const LinearForwardArgs& args) {
  MultiplyByWeight(args.x, args.weight.canonical, args.bias, args.y, args.mode);
}

void LinearBackward(Context& ctx, const LinearBackwardArgs& args) {
  const int64_t m = args.dy.dim(0), n = args.dy.dim(1);
  MultiplyBackward({.x = args.x,
                    .w = args.weight.canonical,
                    .dy = Operand(args.dy),
                    .dx = args.dx,
                    .dx_mode = args.dx_mode,
                    .dw = args.dweight,
                    .dw_mode = args.grad_mode});
  if (args.dbias.empty()) return;
  DeviceScratch scratch(ctx);
  SumColumns(MainStream(),
             {.dtype = args.dy.dtype(),
              .rows = m,
              .columns = n,
              .x = Data(args.dy),
              .sums = {Data<float>(args.dbias), nullptr},
              .add = Adds(args.grad_mode),
              .scratch = scratch.Take<float>("column sums", ColumnSumScratchBytes(m, n))});
}

void EmbeddingForward(Context&, const EmbeddingForwardArgs& args) {
  const int64_t rows = args.table.dim(0);
  EmbeddingForward(MainStream(), EmbeddingParams{.dtype = args.table.dtype(),
                                                 .places = args.tokens.num_elements(),
                                                 .columns = args.table.dim(1),
                                                 .first = args.vocabulary.first(rows),
                                                 .vocab_rows = rows,
                                                 .tokens = Data<int32_t>(args.tokens),
                                                 .table = Data(args.table),
                                                 .y = Data(args.y)});
}

void EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args) {
  const int64_t rows = args.dtable.dim(0), places = args.tokens.num_elements();
  DeviceScratch scratch(ctx);
  const auto keys = [&] {
    return scratch.Take<uint64_t>("sorted places", static_cast<size_t>(places) * sizeof(uint64_t));
  };
  EmbeddingParams params = {.dtype = args.dy.dtype(),
                            .places = places,
                            .columns = args.dtable.dim(1),
                            .first = args.vocabulary.first(rows),
                            .vocab_rows = rows,
                            .tokens = Data<int32_t>(args.tokens),
                            .table = nullptr,
                            .y = nullptr,
                            .dy = Data(args.dy),
                            .dtable = Data<float>(args.dtable),
                            .add = Adds(args.grad_mode)};
  for (uint64_t*& part : params.keys) part = keys();
  EmbeddingBackward(MainStream(), params);
}

namespace {

void Rotate(const RotaryArgs& args, bool backward) {
  const TensorView& qkv = args.qkv;
  Rotate(MainStream(), RotaryParams{.dtype = qkv.dtype(),
                                    .rows = qkv.dim(0) * qkv.dim(1),
                                    .seq_length = qkv.dim(1),
                                    .num_heads = qkv.dim(2),
                                    .head_dim = qkv.dim(4),
                                    .half = args.cos.dim(1),
                                    .qkv = Data(qkv),
                                    .cos = Data<float>(args.cos),
                                    .sin = Data<float>(args.sin),
                                    .backward = backward});
}

// The index on the device: the first layer of a batch uploads it for all.
const DeviceAttentionIndex& OnDevice(const AttentionIndex* index, const TensorView& like) {
  const AttentionIndex& host =
      index != nullptr ? *index : Runtime::Get().EmptyIndex(like.dim(0), like.dim(1));
  static std::mutex mutex;  // ranks that are threads share the empty index
  const std::lock_guard lock(mutex);
  if (host.device_copy() == nullptr) {
    host.device_copy() = Runtime::Get().Upload(host);
  }
  return *static_cast<const DeviceAttentionIndex*>(host.device_copy().get());
}

SepAttentionSize SizeOf(const ConstTensorView& qkv, int64_t window) {
  return {.dtype = qkv.dtype(),
          .batch_size = qkv.dim(0),
          .seq_length = qkv.dim(1),
          .num_heads = qkv.dim(2),
          .head_dim = qkv.dim(4),
          .window = window};
}

SepAttentionSize SizeOf(const SepAttentionShape& s) {
  return {.dtype = s.dtype,
          .batch_size = s.batch_size,
          .seq_length = s.seq_length,
          .num_heads = s.num_heads,
          .head_dim = s.head_dim,
          .window = s.seq_length};
}

// Calls use(who serves this call).
template <typename Args, typename Use>
void WithAttention(const Context& ctx, const Args& args, const TensorView& like, const Use& use) {
  const SepAttentionSize size = SizeOf(args.qkv, args.window);
  const bool is_full = args.index == nullptr && args.window >= size.seq_length;
  if (is_full && ctx.full_attention == FullAttention::kCudnn) return use(Runtime::Get().Dnn(size));
  const SepAttention own(size, OnDevice(args.index, like), ctx.allow_fallback);
  use(own);
}

}  // namespace

void RotaryForward(Context&, const RotaryArgs& args) { Rotate(args, false); }
void RotaryBackward(Context&, const RotaryArgs& args) { Rotate(args, true); }

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args) {
  WithAttention(ctx, args, args.out, [&](auto& attention) {
    DeviceScratch scratch(ctx);
    attention.Forward(MainStream(),
                      {.qkv = Data(args.qkv), .out = Data(args.out), .lse = Data<float>(args.lse)},
                      scratch.Take("attention", attention.ScratchBytes()));
  });
}

void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args) {
  WithAttention(ctx, args, args.dqkv, [&](auto& attention) {
    DeviceScratch scratch(ctx);
    attention.Backward(MainStream(),
                       {.qkv = Data(args.qkv),
                        // Read, not written, by the backward pass.
                        .out = const_cast<void*>(Data(args.out)),
                        .lse = const_cast<float*>(Data<float>(args.lse)),
                        .dout = Data(args.dout),
                        .dqkv = Data(args.dqkv)},
                       scratch.Take("attention", attention.ScratchBytes()));
  });
}

namespace {

// The most keys that a new token sees.
int64_t MostKeys(const CachedAttentionArgs& args, int64_t length) {
  const int64_t band = std::min(args.window, length);
  const int64_t before = length - 1 - args.window;
  if (args.index == nullptr || before < 0) return band;
  return band + args.index->count(0)[static_cast<size_t>(before)];
}

// A whole prompt is its own cache: the kernels of training serve it.
void PromptAttention(Context& ctx, const CachedAttentionArgs& args) {
  const int64_t length = args.qkv.dim(0), heads = args.qkv.dim(1), head_dim = args.qkv.dim(3);
  const TensorView like(nullptr, args.out.dtype(), {1, length, heads, head_dim}, args.out.device());
  const SepAttention attention({.dtype = args.qkv.dtype(),
                                .batch_size = 1,
                                .seq_length = length,
                                .num_heads = heads,
                                .head_dim = head_dim,
                                .window = args.window},
                               OnDevice(args.index, like), ctx.allow_fallback);
  DeviceScratch scratch(ctx);
  auto* lse = scratch.Take<float>("lse", static_cast<size_t>(heads * length) * sizeof(float));
  attention.Forward(MainStream(), {.qkv = Data(args.qkv), .out = Data(args.out), .lse = lse},
                    scratch.Take("attention", attention.ForwardScratchBytes()));
}

}  // namespace

void CachedAttention(Context& ctx, const CachedAttentionArgs& args) {
  const int64_t num_new = args.qkv.dim(0), heads = args.qkv.dim(1), head_dim = args.qkv.dim(3);
  CHECK_LE(head_dim, kMaxHeadDim);
  const int64_t splits = CacheSplits(num_new * heads, MostKeys(args, args.begin + num_new));
  const bool has_far_keys = args.index != nullptr && args.index->max_packed() > 0;
  CachedAttentionParams params = {
      .dtype = args.qkv.dtype(),
      .num_new = static_cast<int32_t>(num_new),
      .num_heads = static_cast<int32_t>(heads),
      .head_dim = static_cast<int32_t>(head_dim),
      .begin = static_cast<int32_t>(args.begin),
      .window = args.window,
      .qkv = Data(args.qkv),
      .keys = Data(args.keys),
      .values = Data(args.values),
      .positions = has_far_keys ? Data<int32_t>(args.far_keys.positions) : nullptr,
      .count = has_far_keys ? Data<int32_t>(args.far_keys.count) : nullptr,
      .out = Data(args.out),
      .num_splits = static_cast<int32_t>(splits),
      .scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(head_dim))),
      .split_sums = nullptr,
      .split_stats = nullptr};
  AppendToCache(MainStream(), params);
  if (args.begin == 0 && num_new > 1) return PromptAttention(ctx, args);
  DeviceScratch scratch(ctx);
  if (splits > 1) {
    const auto parts = static_cast<size_t>(num_new * heads * splits);
    params.split_sums =
        scratch.Take<float>("split sums", parts * static_cast<size_t>(head_dim) * sizeof(float));
    params.split_stats = scratch.Take<float>("split stats", parts * 2 * sizeof(float));
  }
  CachedAttention(MainStream(), params);
}

int64_t DnnScratchBytes(const SepAttentionShape& shape) {
  if (!Runtime::IsOpen()) return ExpectedDnnScratchBytes(shape);
  return static_cast<int64_t>(Runtime::Get().Dnn(SizeOf(shape)).ScratchBytes());
}

std::string DnnKernelName(const SepAttentionShape& shape) {
  return Runtime::Get().Dnn(SizeOf(shape)).KernelName();
}

std::string SepAttentionKernelName(DType dtype, int64_t head_dim, bool allow_fallback) {
  return SepAttention::NameOfKernel(dtype, head_dim, allow_fallback);
}

void LmHeadLogits(Context&, const LmHeadLogitsArgs& args) {
  MultiplyByWeight(args.x, args.weight.canonical, {}, args.logits, GradMode::kOverwrite);
}

void LmHeadLoss(Context& ctx, const LmHeadLossArgs& args) {
  const int64_t m = args.x.dim(0), v = args.weight.canonical.dim(0);
  const int64_t most = LmHeadChunkRows(m, args.x.dim(1));
  const int parts = args.vocabulary.num_parts;
  constexpr int64_t kStatistics = sizeof(RowStatistics) / sizeof(double);
  ScratchScope scratch(*ctx.scratch);
  const TensorView logits = scratch.Allocate("lm_head.logits", DType::kFloat32, {most, v});
  const TensorView own = scratch.Allocate("lm_head.own", DType::kFloat64, {most, kStatistics});
  const TensorView all =
      scratch.Allocate("lm_head.all", DType::kFloat64, {parts, most, kStatistics});
  const TensorView losses = scratch.Allocate("lm_head.losses", DType::kFloat64, {most});

  bool add_loss = Adds(args.loss_mode);
  GradMode mode = args.grad_mode;
  for (int64_t begin = 0; begin < m; begin += most) {
    const int64_t rows = std::min(most, m - begin);
    const ConstTensorView x = args.x.Rows(begin, rows);
    const ConstTensorView mask =
        args.loss_mask.empty() ? args.loss_mask : ConstTensorView(args.loss_mask.Rows(begin, rows));
    MultiplyByWeight(x, args.weight.canonical, {}, logits.Rows(0, rows), GradMode::kOverwrite);
    SoftmaxLossParams params = {
        .dtype = x.dtype(),
        .rows = rows,
        .columns = v,
        .logits = Data<float>(logits),
        .targets = Data<int32_t>(ConstTensorView(args.targets.Rows(begin, rows))),
        .loss_mask = Data<uint8_t>(mask),
        .first = args.vocabulary.first(v),
        .own = Data<RowStatistics>(own),
        .all = Data<RowStatistics>(own),
        .num_parts = parts,
        .losses = Data<double>(losses),
        .grad_scale = Data<float>(args.grad_scale)};
    RowStatisticsOf(MainStream(), params);
    if (parts > 1) {
      params.all = Data<RowStatistics>(all);
      args.gather_statistics(
          TensorView(own.Rows(0, rows)),
          TensorView(all.raw(), DType::kFloat64, {parts, rows, kStatistics}, all.device()));
    }
    SoftmaxLoss(MainStream(), params);
    SumLosses(MainStream(), params.losses, rows, Data<double>(args.loss_sum), add_loss);
    add_loss = true;
    if (args.dx.empty()) continue;
    const int64_t elements_a_float = static_cast<int64_t>(sizeof(float)) / DTypeSize(x.dtype());
    MultiplyBackward({.x = x,
                      .w = args.weight.canonical,
                      .dy = {.data = params.logits, .stride = v * elements_a_float},
                      .dx = args.dx.Rows(begin, rows),
                      .dx_mode = GradMode::kOverwrite,
                      .dw = args.dweight,
                      .dw_mode = mode});
    mode = GradMode::kAccumulate;
  }
  if (m > 0) return;
  if (!add_loss) FillBytes(args.loss_sum, 0);
  if (!args.dx.empty() && !Adds(args.grad_mode)) FillBytes(args.dweight, 0);
}

}  // namespace sepia::kernels::cuda
