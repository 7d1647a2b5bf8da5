#include "kernels/lm_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "base/integer.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa/softmax_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

cpu::MatrixRef Matrix(const ConstTensorView& tensor) {
  return {tensor.raw(), std::max<int64_t>(tensor.dim(1), 1), 1};
}

void Logits(Context& ctx, const ConstTensorView& x, const Weight& weight, const TensorView& y) {
  cpu::Gemm(ctx, {.a = Matrix(x),
                  .b = Matrix(weight.canonical).Transposed(),
                  .dtype = x.dtype(),
                  .k = x.dim(1),
                  .bias = {},
                  .c = y,
                  .mode = GradMode::kOverwrite});
}

// Rows [begin, begin + rows) of the op's arguments. A row's gradient, in the compute dtype, takes
// the memory of its logits.
struct Chunk {
  int64_t begin, rows;
  TensorView logits;  // [rows, V] fp32
  double* losses;     // [rows]
  // Of a vocabulary in parts: [rows, 3] of this part, [parts, rows, 3] of all.
  TensorView own_statistics, statistics;
};

// A row of logits, or its part of the vocabulary, in three numbers.
struct RowStatistics {
  double max = 0;           // largest logit
  double sum = 0;           // of exp(logit - max); NaN if any logit is
  double target_logit = 0;  // zero when the target is in another part
};

constexpr int64_t kStatistics = sizeof(RowStatistics) / sizeof(double);

bool IsMasked(const LmHeadLossArgs& args, int64_t place) {
  return !args.loss_mask.empty() && args.loss_mask.data<uint8_t>()[place] == 0;
}

// The target's column in this part; outside [0, V) when it is in another.
int64_t TargetColumn(const LmHeadLossArgs& args, const Chunk& chunk, int64_t row) {
  return args.targets.data<int32_t>()[chunk.begin + row] -
         args.vocabulary.first(chunk.logits.dim(1));
}

RowStatistics Statistics(const LmHeadLossArgs& args, const Chunk& chunk, int64_t row) {
  if (IsMasked(args, chunk.begin + row)) return {};
  const int64_t v = chunk.logits.dim(1);
  const float* logits = chunk.logits.data<float>() + row * v;
  const cpu::ExpSum sum = SEPIA_BY_ISA(SumOfExps)(logits, v);
  const int64_t target = TargetColumn(args, chunk, row);
  return {static_cast<double>(sum.max), sum.sum,
          target >= 0 && target < v ? static_cast<double>(logits[target]) : 0.0};
}

// All parts of a row, in the order of parts.
RowStatistics Combine(const Chunk& chunk, int64_t row) {
  const auto parts = std::span(static_cast<const RowStatistics*>(chunk.statistics.raw()),
                               static_cast<size_t>(chunk.statistics.dim(0) * chunk.rows));
  RowStatistics whole = parts[static_cast<size_t>(row)];
  for (size_t i = static_cast<size_t>(row + chunk.rows); i < parts.size();
       i += static_cast<size_t>(chunk.rows)) {
    whole.max = std::max(whole.max, parts[i].max);
    whole.target_logit += parts[i].target_logit;
  }
  whole.sum = 0;
  for (auto i = static_cast<size_t>(row); i < parts.size(); i += static_cast<size_t>(chunk.rows)) {
    whole.sum += parts[i].sum * std::exp(parts[i].max - whole.max);
  }
  return whole;
}

// The row's loss and, if wanted, the gradient of its logits in their place.
void FinishRow(const LmHeadLossArgs& args, const Chunk& chunk, int64_t row,
               const RowStatistics& whole) {
  const int64_t v = chunk.logits.dim(1);
  float* logits = chunk.logits.data<float>() + row * v;
  if (IsMasked(args, chunk.begin + row)) {
    chunk.losses[row] = 0.0;
    std::fill_n(logits, v, 0.0f);
    return;
  }
  chunk.losses[row] = whole.max + std::log(whole.sum) - whole.target_logit;
  if (args.dx.empty()) return;
  SEPIA_BY_ISA(WriteSoftmaxGradient)
  ({.logits = logits,
    .size = v,
    .row = {static_cast<float>(whole.max), whole.sum},
    .target = TargetColumn(args, chunk, row),
    .scale = args.grad_scale.data<float>()[0],
    .out_dtype = args.x.dtype(),
    .out = logits});
}

// Logits of the chunk into losses and gradients.
void LossRows(Context& ctx, const LmHeadLossArgs& args, const Chunk& chunk) {
  if (args.vocabulary.num_parts == 1) {
    cpu::ParallelFor(ctx, chunk.rows, [&](int64_t row) {
      FinishRow(args, chunk, row, Statistics(args, chunk, row));
    });
    return;
  }
  auto* own = static_cast<RowStatistics*>(chunk.own_statistics.raw());
  cpu::ParallelFor(ctx, chunk.rows, [&](int64_t row) { own[row] = Statistics(args, chunk, row); });
  args.gather_statistics(chunk.own_statistics, chunk.statistics);
  cpu::ParallelFor(ctx, chunk.rows,
                   [&](int64_t row) { FinishRow(args, chunk, row, Combine(chunk, row)); });
}

// Undoes logits = x W^T: dx = dlogits W; dW (+)= dlogits^T x.
void LogitsBackward(Context& ctx, const LmHeadLossArgs& args, const Chunk& chunk, GradMode mode) {
  const ConstTensorView x = args.x.Rows(chunk.begin, chunk.rows);
  const int64_t v = chunk.logits.dim(1);
  const int64_t elements_a_float = static_cast<int64_t>(sizeof(float)) / DTypeSize(x.dtype());
  const cpu::MatrixRef dlogits = {chunk.logits.raw(), v * elements_a_float, 1};
  cpu::Gemm(ctx, {.a = dlogits,
                  .b = Matrix(args.weight.canonical),
                  .dtype = x.dtype(),
                  .k = v,
                  .bias = {},
                  .c = args.dx.Rows(chunk.begin, chunk.rows),
                  .mode = GradMode::kOverwrite});
  cpu::Gemm(ctx, {.a = dlogits.Transposed(),
                  .b = Matrix(x),
                  .dtype = x.dtype(),
                  .k = chunk.rows,
                  .bias = {},
                  .c = args.dweight,
                  .mode = mode});
}

int64_t MaxGemmScratch(int64_t rows, int64_t c, int64_t v, DType dtype, int num_threads) {
  return std::max({cpu::GemmScratchBytes(rows, v, c, dtype, DType::kFloat32, num_threads),
                   cpu::GemmScratchBytes(rows, c, v, dtype, dtype, num_threads),
                   cpu::GemmScratchBytes(v, c, rows, dtype, DType::kFloat32, num_threads)});
}

}  // namespace

void cpu::LmHeadLoss(Context& ctx, const LmHeadLossArgs& args) {
  const int64_t m = args.x.dim(0);
  const int64_t v = args.weight.canonical.dim(0);
  const bool with_gradients = !args.dx.empty();
  const int64_t rows = LmHeadChunkRows(m, args.x.dim(1));
  const int64_t parts = args.vocabulary.num_parts;
  ScratchScope scratch(*ctx.scratch);
  const TensorView logits = scratch.Allocate("lm_head.logits", DType::kFloat32, {rows, v});
  const TensorView losses = scratch.Allocate("lm_head.losses", DType::kFloat64, {rows});
  const TensorView own_statistics =
      scratch.Allocate("lm_head.own_statistics", DType::kFloat64, {rows, kStatistics});
  const TensorView statistics =
      scratch.Allocate("lm_head.statistics", DType::kFloat64, {parts, rows, kStatistics});

  double loss = args.loss_mode == GradMode::kAccumulate ? args.loss_sum.data<double>()[0] : 0.0;
  GradMode mode = args.grad_mode;
  for (int64_t begin = 0; begin < m; begin += rows) {
    const int64_t count = std::min(rows, m - begin);
    const Chunk chunk{begin,
                      count,
                      logits.Rows(0, count),
                      losses.data<double>(),
                      own_statistics.Rows(0, count),
                      TensorView(statistics.raw(), DType::kFloat64, {parts, count, kStatistics})};
    Logits(ctx, args.x.Rows(begin, count), args.weight, chunk.logits);
    LossRows(ctx, args, chunk);
    for (int64_t row = 0; row < chunk.rows; ++row) loss += chunk.losses[row];
    if (!with_gradients) continue;
    LogitsBackward(ctx, args, chunk, mode);
    mode = GradMode::kAccumulate;
  }
  args.loss_sum.data<double>()[0] = loss;
  if (m == 0 && with_gradients && args.grad_mode == GradMode::kOverwrite) {
    std::memset(args.dweight.raw(), 0, static_cast<size_t>(args.dweight.num_bytes()));
  }
}

void cpu::LmHeadLogits(Context& ctx, const LmHeadLogitsArgs& args) {
  Logits(ctx, args.x, args.weight, args.logits);
}

int64_t cpu::LmHeadScratchBytes(int64_t m, int64_t c, int64_t v, DType dtype, int num_threads,
                                int num_parts) {
  const int64_t rows = LmHeadChunkRows(m, c);
  const int64_t logits = rows * v * static_cast<int64_t>(sizeof(float)) + Arena::kAlignment;
  const int64_t losses = rows * static_cast<int64_t>(sizeof(double)) + Arena::kAlignment;
  const int64_t statistics =
      (1 + num_parts) * rows * static_cast<int64_t>(sizeof(RowStatistics)) + 2 * Arena::kAlignment;
  const int64_t last = m - m / std::max<int64_t>(rows, 1) * rows;
  return logits + losses + statistics +
         std::max({MaxGemmScratch(rows, c, v, dtype, num_threads),
                   MaxGemmScratch(last, c, v, dtype, num_threads),
                   cpu::GemmScratchBytes(m, v, c, dtype, DType::kFloat32, num_threads)});
}

}  // namespace sepia::kernels
