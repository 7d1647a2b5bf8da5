#include "kernels/cuda/dense_ops.cuh"

namespace sepia::kernels::cuda {
namespace {

// Masters and second moments as kernels/optimizer_state.h holds them, a chunk of them, joined and
// split.
template <typename Format>
struct Masters {
  static constexpr bool kSplit = __is_same(Format, Bf16);
  float values[kChunk], exp_avg_sq[kChunk];

  SEPIA_DEVICE void Load(const AdamWParams& p, int64_t column, int count) {
    LoadChunk<Fp32>(exp_avg_sq, p.exp_avg_sq + column, count);
    if constexpr (kSplit) {
      float remainder[kChunk];
      LoadChunk<Bf16>(values, static_cast<const uint16_t*>(p.weight) + column, count);
      LoadChunk<UpperHalf>(remainder, static_cast<const uint16_t*>(p.master) + column, count);
      for (int i = 0; i < kChunk; ++i) {
        const uint32_t v = FloatBits(exp_avg_sq[i]);
        const auto low = static_cast<uint32_t>(static_cast<int32_t>(FloatBits(remainder[i])) >> 16);
        values[i] = FloatOfBits(FloatBits(values[i]) + (v >> 31 << 16) + low);
        exp_avg_sq[i] = FloatOfBits(v & 0x7fffffffu);
      }
    } else {
      const void* from = __is_same(Format, Fp32) ? p.weight : p.master;
      LoadChunk<Fp32>(values, static_cast<const float*>(from) + column, count);
    }
  }

  SEPIA_DEVICE void Store(const AdamWParams& p, int64_t column, int count) {
    StoreChunk<Format>(static_cast<Storage<Format>*>(p.weight) + column, values, count);
    if constexpr (kSplit) {
      float remainder[kChunk];
      for (int i = 0; i < kChunk; ++i) {
        const uint32_t bits = FloatBits(values[i]);
        remainder[i] = FloatOfBits(bits << 16);
        const uint32_t tie = (bits & 0x1ffffu) == 0x8000u ? 0x80000000u : 0u;
        exp_avg_sq[i] = FloatOfBits((FloatBits(exp_avg_sq[i]) & 0x7fffffffu) | tie);
      }
      StoreChunk<UpperHalf>(static_cast<uint16_t*>(p.master) + column, remainder, count);
    } else if constexpr (!__is_same(Format, Fp32)) {
      StoreChunk<Fp32>(static_cast<float*>(p.master) + column, values, count);
    }
    StoreChunk<Fp32>(p.exp_avg_sq + column, exp_avg_sq, count);
  }
};

template <typename Format>
struct AdamWOp {
  int64_t rows, columns;  // 1, size
  AdamWParams p;

  SEPIA_DEVICE void Chunk(int64_t, int64_t column, int count) const {
    if (LoadGlobal(p.skip) != 0) return;
    Masters<Format> masters;
    float m[kChunk], grad[kChunk];
    masters.Load(p, column, count);
    LoadChunk<Fp32>(m, p.exp_avg + column, count);
    LoadChunk<Fp32>(grad, p.grad + column, count);
    const float multiplier = LoadGlobal(p.grad_multiplier);
    for (int i = 0; i < kChunk; ++i) {
      const float g = grad[i] * multiplier;
      float& v = masters.exp_avg_sq[i];
      float& master = masters.values[i];
      m[i] = p.beta1 * m[i] + p.one_minus_beta1 * g;
      v = p.beta2 * v + p.one_minus_beta2 * (g * g);
      const float update = m[i] / p.correction1 / (sqrtf(v / p.correction2) + p.eps);
      master -= p.lr * (update + p.weight_decay * master);
    }
    StoreChunk<Fp32>(p.exp_avg + column, m, count);
    masters.Store(p, column, count);
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
