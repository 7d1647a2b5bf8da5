#include "kernels/lm_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa/softmax_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

// Rows whose logits exist at one time: at most 64 MiB of fp32, by the shape alone. Each chunk reads
// W twice and dW once, and writes dW, so that many rows a chunk save traffic.
int64_t ChunkRows(int64_t m, int64_t v) {
  constexpr int64_t kMaxLogits = (int64_t{64} << 20) / static_cast<int64_t>(sizeof(float));
  const int64_t rows = std::max<int64_t>(32, kMaxLogits / std::max<int64_t>(v, 1) / 32 * 32);
  return std::min(m, rows);
}

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
};

// Logits of one row into its loss and, if wanted, their gradient in place.
void LossRow(const LmHeadLossArgs& args, const Chunk& chunk, int64_t row) {
  const int64_t v = chunk.logits.dim(1);
  const int64_t place = chunk.begin + row;
  const int64_t target = args.targets.data<int32_t>()[place];
  float* logits = chunk.logits.data<float>() + row * v;
  if (!args.loss_mask.empty() && args.loss_mask.data<uint8_t>()[place] == 0) {
    chunk.losses[row] = 0.0;
    std::fill_n(logits, v, 0.0f);
    return;
  }
  const cpu::ExpSum sum = SEPIA_BY_ISA(SumOfExps)(logits, v);
  chunk.losses[row] =
      static_cast<double>(sum.max) + std::log(sum.sum) - static_cast<double>(logits[target]);
  if (args.dx.empty()) return;
  SEPIA_BY_ISA(WriteSoftmaxGradient)
  ({.logits = logits,
    .size = v,
    .row = sum,
    .target = target,
    .scale = args.grad_scale.data<float>()[0],
    .out_dtype = args.x.dtype(),
    .out = logits});
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
  return std::max({cpu::GemmScratchBytes(rows, v, c, DType::kFloat32, num_threads),
                   cpu::GemmScratchBytes(rows, c, v, dtype, num_threads),
                   cpu::GemmScratchBytes(v, c, rows, DType::kFloat32, num_threads)});
}

}  // namespace

void cpu::LmHeadLoss(Context& ctx, const LmHeadLossArgs& args) {
  const int64_t m = args.x.dim(0);
  const int64_t v = args.weight.canonical.dim(0);
  const bool with_gradients = !args.dx.empty();
  const int64_t rows = ChunkRows(m, v);
  ScratchScope scratch(*ctx.scratch);
  const TensorView logits = scratch.Allocate("lm_head.logits", DType::kFloat32, {rows, v});
  const TensorView losses = scratch.Allocate("lm_head.losses", DType::kFloat64, {rows});

  double loss = args.loss_mode == GradMode::kAccumulate ? args.loss_sum.data<double>()[0] : 0.0;
  GradMode mode = args.grad_mode;
  for (int64_t begin = 0; begin < m; begin += rows) {
    const int64_t count = std::min(rows, m - begin);
    const Chunk chunk{begin, count, logits.Rows(0, count), losses.data<double>()};
    Logits(ctx, args.x.Rows(begin, count), args.weight, chunk.logits);
    ParallelFor(ctx, chunk.rows, [&](int64_t row) { LossRow(args, chunk, row); });
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

int64_t LmHeadScratchBytes(int64_t m, int64_t c, int64_t v, DType dtype, int num_threads) {
  const int64_t rows = ChunkRows(m, v);
  const int64_t logits = rows * v * static_cast<int64_t>(sizeof(float)) + Arena::kAlignment;
  const int64_t losses = rows * static_cast<int64_t>(sizeof(double)) + Arena::kAlignment;
  const int64_t last = m - m / std::max<int64_t>(rows, 1) * rows;
  return logits + losses +
         std::max({MaxGemmScratch(rows, c, v, dtype, num_threads),
                   MaxGemmScratch(last, c, v, dtype, num_threads),
                   cpu::GemmScratchBytes(m, v, c, DType::kFloat32, num_threads)});
}

}  // namespace sepia::kernels
