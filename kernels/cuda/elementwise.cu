#include "kernels/cuda/dense_ops.cuh"

namespace sepia::kernels::cuda {
namespace {

constexpr float kSqrt2OverPi = 0.7978845608028654f;
constexpr float kSqrtHalf = 0.7071067811865476f;
constexpr float kInvSqrt2Pi = 0.3989422804014327f;
constexpr float kCubic = 0.044715f;

SEPIA_DEVICE float Gelu(float v, bool use_erf) {
  if (use_erf) return 0.5f * v * erfcf(-v * kSqrtHalf);
  return 0.5f * v * (1.0f + tanhf(kSqrt2OverPi * v * (1.0f + kCubic * v * v)));
}

SEPIA_DEVICE float GeluSlope(float v, bool use_erf) {
  if (use_erf) {
    return 0.5f * erfcf(-v * kSqrtHalf) + v * kInvSqrt2Pi * expf(-0.5f * v * v);
  }
  const float t = tanhf(kSqrt2OverPi * v * (1.0f + kCubic * v * v));
  const float slope = kSqrt2OverPi * (1.0f + 3.0f * kCubic * v * v);
  return 0.5f * (1.0f + t) + 0.5f * v * (1.0f - t * t) * slope;
}

template <typename Format>
struct GeluForwardOp {
  using T = Storage<Format>;
  int64_t rows, columns;
  const T *x, *bias;
  T* y;
  bool use_erf;

  SEPIA_DEVICE void Chunk(int64_t row, int64_t column, int count) const {
    float values[kChunk], shift[kChunk];
    LoadChunk<Format>(values, x + row * columns + column, count);
    LoadChunk<Format>(shift, bias + column, count);
    for (int i = 0; i < kChunk; ++i) values[i] = Gelu(values[i] + shift[i], use_erf);
    StoreChunk<Format>(y + row * columns + column, values, count);
  }
};

// Stores dx and sums it unrounded.
template <typename Format>
struct GeluBackwardOp {
  using T = Storage<Format>;
  int64_t rows, columns;
  const T *x, *bias, *dy;
  T* dx;
  bool use_erf;
  float* scratch;

  SEPIA_DEVICE void Row(int64_t row, int64_t column, int count, float (&sums)[2][kChunk]) const {
    float values[kChunk], shift[kChunk], gradient[kChunk];
    LoadChunk<Format>(values, x + row * columns + column, count);
    LoadChunk<Format>(shift, bias + column, count);
    LoadChunk<Format>(gradient, dy + row * columns + column, count);
    for (int i = 0; i < kChunk; ++i) {
      gradient[i] *= GeluSlope(values[i] + shift[i], use_erf);
      sums[0][i] += gradient[i];
    }
    StoreChunk<Format>(dx + row * columns + column, gradient, count);
  }
};

template <typename Format>
struct BiasResidualOp {
  using T = Storage<Format>;
  int64_t rows, columns;
  const T *x, *partial, *bias1, *bias2;
  T* y;

  SEPIA_DEVICE void Chunk(int64_t row, int64_t column, int count) const {
    float sum[kChunk], part[kChunk];
    const int64_t at = row * columns + column;
    LoadChunk<Format>(sum, x + at, count);
    const auto add = [&](const T* from) {
      LoadChunk<Format>(part, from, count);
      for (int i = 0; i < kChunk; ++i) sum[i] += part[i];
    };
    add(partial + at);
    add(bias1 + column);
    if (bias2 != nullptr) add(bias2 + column);
    StoreChunk<Format>(y + at, sum, count);
  }
};

}  // namespace

void BiasGeluForward(Stream& stream, const BiasGeluParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    using T = Storage<decltype(format)>;
    LaunchChunks(stream, "BiasGeluForward",
                 GeluForwardOp<decltype(format)>{p.rows, p.columns, static_cast<const T*>(p.x),
                                                 static_cast<const T*>(p.bias),
                                                 static_cast<T*>(p.y), p.use_erf});
  });
}

void BiasGeluBackward(Stream& stream, const BiasGeluParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    using T = Storage<decltype(format)>;
    const GeluBackwardOp<decltype(format)> op = {p.rows,
                                                 p.columns,
                                                 static_cast<const T*>(p.x),
                                                 static_cast<const T*>(p.bias),
                                                 static_cast<const T*>(p.dy),
                                                 static_cast<T*>(p.dx),
                                                 p.use_erf,
                                                 p.scratch};
    LaunchColumnSums(stream, "BiasGeluBackward", op, p.dbias, nullptr, p.add_grads);
  });
}

void AddBiasResidualForward(Stream& stream, const BiasResidualParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    using T = Storage<decltype(format)>;
    LaunchChunks(
        stream, "AddBiasResidual",
        BiasResidualOp<decltype(format)>{
            p.rows, p.columns, static_cast<const T*>(p.x), static_cast<const T*>(p.partial),
            static_cast<const T*>(p.bias1), static_cast<const T*>(p.bias2), static_cast<T*>(p.y)});
  });
}

}  // namespace sepia::kernels::cuda
