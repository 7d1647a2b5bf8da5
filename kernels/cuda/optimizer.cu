#include "kernels/cuda/dense_ops.cuh"

namespace sepia::kernels::cuda {
namespace {

template <typename Format>
struct AdamWOp {
  int64_t rows, columns;  // 1, size
  AdamWParams p;

  SEPIA_DEVICE void Chunk(int64_t, int64_t column, int count) const {
    if (LoadGlobal(p.skip) != 0) return;
    float master[kChunk], m[kChunk], v[kChunk], grad[kChunk];
    LoadChunk<Fp32>(master, p.master + column, count);
    LoadChunk<Fp32>(m, p.exp_avg + column, count);
    LoadChunk<Fp32>(v, p.exp_avg_sq + column, count);
    LoadChunk<Fp32>(grad, p.grad + column, count);
    const float multiplier = LoadGlobal(p.grad_multiplier);
    for (int i = 0; i < kChunk; ++i) {
      const float g = grad[i] * multiplier;
      m[i] = p.beta1 * m[i] + p.one_minus_beta1 * g;
      v[i] = p.beta2 * v[i] + p.one_minus_beta2 * (g * g);
      const float update = m[i] / p.correction1 / (sqrtf(v[i] / p.correction2) + p.eps);
      master[i] -= p.lr * (update + p.weight_decay * master[i]);
    }
    StoreChunk<Fp32>(p.master + column, master, count);
    StoreChunk<Fp32>(p.exp_avg + column, m, count);
    StoreChunk<Fp32>(p.exp_avg_sq + column, v, count);
    if (p.weight != nullptr) {
      StoreChunk<Format>(static_cast<Storage<Format>*>(p.weight) + column, master, count);
    }
  }
};

// Grid: x = partial sums of kNormElements.
SEPIA_KERNEL(kDenseThreads, 1) PartialSquares(const SquaredNormParams p) {
  const int64_t first = static_cast<int64_t>(BlockIndexX()) * kNormElements;
  double sum = 0;
  for (int i = ThreadIndex() * kChunk; i < kNormElements; i += kDenseThreads * kChunk) {
    const int64_t left = p.size - first - i;
    if (left <= 0) break;
    float values[kChunk];
    LoadChunk<Fp32>(values, p.x + first + i, static_cast<int>(left < kChunk ? left : kChunk));
    for (const float value : values) sum += static_cast<double>(value) * value;
  }
  sum = SumOverBlock(sum);
  if (ThreadIndex() == 0) StoreGlobal(p.scratch + BlockIndexX(), sum);
}

SEPIA_KERNEL(kDenseThreads, 1) SumPartialSquares(const SquaredNormParams p) {
  const int64_t partials = (p.size + kNormElements - 1) / kNormElements;
  double sum = 0;
  for (int64_t i = ThreadIndex(); i < partials; i += kDenseThreads) {
    sum += LoadGlobal(p.scratch + i);
  }
  sum = SumOverBlock(sum);
  if (ThreadIndex() == 0) StoreGlobal(p.sum, p.add ? LoadGlobal(p.sum) + sum : sum);
}

SEPIA_KERNEL(32, 1) ComputeClipFactor(const ClipFactorParams p) {
  if (ThreadIndex() != 0) return;
  const double scale = static_cast<double>(LoadGlobal(p.loss_scale));
  const double norm = sqrt(LoadGlobal(p.squared_norm)) / scale;
  const bool finite = norm - norm == 0.0;
  const double excess = p.clip > 0 ? (norm + 1e-6) / p.clip : 1.0;
  StoreGlobal(p.norm, norm);
  StoreGlobal(p.grad_multiplier, static_cast<float>(1.0 / scale / (excess > 1.0 ? excess : 1.0)));
  StoreGlobal(p.skip, finite ? 0 : 1);
}

}  // namespace

void AdamWUpdate(Stream& stream, const AdamWParams& p) {
  DispatchFormat(p.weight_dtype, [&](auto format) {
    LaunchChunks(stream, "AdamW", AdamWOp<decltype(format)>{1, p.size, p});
  });
}

void SquaredNorm(Stream& stream, const SquaredNormParams& p) {
  constexpr size_t kShared = kDenseThreads * sizeof(double);
  Launch(stream,
         {.name = "PartialSquares",
          .grid = {DivideUp(p.size, kNormElements)},
          .block = kDenseThreads,
          .shared_bytes = kShared},
         &PartialSquares, p);
  Launch(stream,
         {.name = "SumPartialSquares", .grid = {}, .block = kDenseThreads, .shared_bytes = kShared},
         &SumPartialSquares, p);
}

void ClipFactor(Stream& stream, const ClipFactorParams& p) {
  Launch(stream, {.name = "ClipFactor", .grid = {}, .block = 32}, &ComputeClipFactor, p);
}

}  // namespace sepia::kernels::cuda
