#include "kernels/cuda/dense_ops.cuh"
#include "kernels/cuda/model_ops.h"

namespace sepia::kernels::cuda {
namespace {

SEPIA_DEVICE float MaxOverBlock(float value) {
  auto* values = reinterpret_cast<float*>(SharedMemory());
  value = WarpMax(value);
  if (ThreadIndex() % 32 == 0) StoreShared(values + ThreadIndex() / 32, value);
  SyncThreads();
  for (int warp = 0; warp < kDenseThreads / 32; ++warp) {
    value = fmaxf(value, LoadShared(values + warp));
  }
  SyncThreads();
  return value;
}

// fn(column, count) for the chunks of a row that the thread owns.
template <typename Fn>
SEPIA_DEVICE void ForThreadChunks(int64_t columns, const Fn& fn) {
  for (int64_t column = ThreadIndex() * kChunk; column < columns;
       column += kDenseThreads * kChunk) {
    fn(column, static_cast<int>(columns - column < kChunk ? columns - column : kChunk));
  }
}

SEPIA_DEVICE bool IsMasked(const SoftmaxLossParams& p, int64_t row) {
  return p.loss_mask != nullptr && LoadGlobal(p.loss_mask + row) == 0;
}

// A block a row.
SEPIA_KERNEL(kDenseThreads, 1) RowStatisticsKernel(const SoftmaxLossParams p) {
  const int64_t row = BlockIndexX();
  const float* logits = p.logits + row * p.columns;
  float values[kChunk];
  float max = -INFINITY;
  ForThreadChunks(p.columns, [&](int64_t column, int count) {
    LoadChunk<Fp32>(values, logits + column, count);
    for (int i = 0; i < count; ++i) max = fmaxf(max, values[i]);
  });
  max = MaxOverBlock(max);
  double sum = 0;
  ForThreadChunks(p.columns, [&](int64_t column, int count) {
    LoadChunk<Fp32>(values, logits + column, count);
    for (int i = 0; i < count; ++i) sum += static_cast<double>(expf(values[i] - max));
  });
  sum = SumOverBlock(sum);
  if (ThreadIndex() != 0) return;
  const int64_t target = LoadGlobal(p.targets + row) - p.first;
  const bool is_ours = target >= 0 && target < p.columns;
  StoreGlobal(&p.own[row].max, static_cast<double>(max));
  StoreGlobal(&p.own[row].sum, sum);
  StoreGlobal(&p.own[row].target_logit,
              is_ours ? static_cast<double>(LoadGlobal(logits + target)) : 0.0);
}

// All parts of a row, in the order of parts.
SEPIA_DEVICE RowStatistics Combine(const SoftmaxLossParams& p, int64_t row) {
  RowStatistics whole = {-INFINITY, 0, 0};
  for (int part = 0; part < p.num_parts; ++part) {
    const RowStatistics* from = p.all + part * p.rows + row;
    whole.max = fmax(whole.max, LoadGlobal(&from->max));
    whole.target_logit += LoadGlobal(&from->target_logit);
  }
  for (int part = 0; part < p.num_parts; ++part) {
    const RowStatistics* from = p.all + part * p.rows + row;
    whole.sum += LoadGlobal(&from->sum) * exp(LoadGlobal(&from->max) - whole.max);
  }
  return whole;
}

// A block a row. A row in 16 bits is shorter than the logits that it replaces: threads meet between
// reading a stripe of logits and writing its gradients, which end before the next stripe begins.
template <typename Format>
SEPIA_KERNEL(kDenseThreads, 1)
SoftmaxLossKernel(const SoftmaxLossParams p) {
  const int64_t row = BlockIndexX();
  float* logits = p.logits + row * p.columns;
  auto* gradient = reinterpret_cast<Storage<Format>*>(logits);
  const bool is_masked = IsMasked(p, row);
  const RowStatistics whole = Combine(p, row);
  if (ThreadIndex() == 0) {
    StoreGlobal(p.losses + row, is_masked ? 0.0 : whole.max + log(whole.sum) - whole.target_logit);
  }
  if (p.grad_scale == nullptr) return;
  const float scale = LoadGlobal(p.grad_scale);
  const auto max = static_cast<float>(whole.max);
  const auto factor = static_cast<float>(1.0 / whole.sum);
  const int64_t target = LoadGlobal(p.targets + row) - p.first;
  for (int64_t stripe = 0; stripe < p.columns; stripe += kDenseThreads * kChunk) {
    const int64_t column = stripe + ThreadIndex() * kChunk;
    const int64_t left = p.columns - column;
    const int count = static_cast<int>(left < 0 ? 0 : left < kChunk ? left : kChunk);
    float values[kChunk] = {};
    if (count > 0 && !is_masked) {
      LoadChunk<Fp32>(values, logits + column, count);
      for (int i = 0; i < kChunk; ++i) {
        const float share = expf(values[i] - max) * factor;
        values[i] = scale * (column + i == target ? share - 1.0f : share);
      }
    }
    SyncThreads();
    if (count > 0) StoreChunk<Format>(gradient + column, values, count);
  }
}

struct SumLossesParams {
  const double* losses;
  int64_t rows;
  double* sum;
  bool add;
};

SEPIA_KERNEL(kDenseThreads, 1) SumLossesKernel(const SumLossesParams p) {
  double sum = 0;
  for (int64_t row = ThreadIndex(); row < p.rows; row += kDenseThreads) {
    sum += LoadGlobal(p.losses + row);
  }
  sum = SumOverBlock(sum);
  if (ThreadIndex() == 0) StoreGlobal(p.sum, p.add ? LoadGlobal(p.sum) + sum : sum);
}

LaunchShape RowsShape(const char* name, int64_t rows) {
  return {.name = name,
          .grid = {static_cast<uint32_t>(rows)},
          .block = kDenseThreads,
          .shared_bytes = kDenseThreads * sizeof(double)};
}

}  // namespace

void RowStatisticsOf(Stream& stream, const SoftmaxLossParams& p) {
  Launch(stream, RowsShape("RowStatistics", p.rows), &RowStatisticsKernel, p);
}

void SoftmaxLoss(Stream& stream, const SoftmaxLossParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    Launch(stream, RowsShape("SoftmaxLoss", p.rows), &SoftmaxLossKernel<decltype(format)>, p);
  });
}

void SumLosses(Stream& stream, const double* losses, int64_t rows, double* sum, bool add) {
  Launch(stream, RowsShape("SumLosses", 1), &SumLossesKernel, {losses, rows, sum, add});
}

}  // namespace sepia::kernels::cuda
