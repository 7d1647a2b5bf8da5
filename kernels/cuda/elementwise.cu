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

template <typename Format>
struct AddOp {
  using T = Storage<Format>;
  int64_t rows, columns;  // 1, size
  const T *a, *b;
  T* y;

  SEPIA_DEVICE void Chunk(int64_t, int64_t column, int count) const {
    float sum[kChunk], other[kChunk];
    LoadChunk<Format>(sum, a + column, count);
    LoadChunk<Format>(other, b + column, count);
    for (int i = 0; i < kChunk; ++i) sum[i] += other[i];
    StoreChunk<Format>(y + column, sum, count);
  }
};

template <typename From, typename To>
struct ConvertOp {
  int64_t rows, columns;  // 1, size
  const Storage<From>* from;
  Storage<To>* to;

  SEPIA_DEVICE void Chunk(int64_t, int64_t column, int count) const {
    float values[kChunk];
    LoadChunk<From>(values, from + column, count);
    StoreChunk<To>(to + column, values, count);
  }
};

template <typename Format>
struct ColumnSumOp {
  int64_t rows, columns;
  const Storage<Format>* x;
  float* scratch;

  SEPIA_DEVICE void Row(int64_t row, int64_t column, int count, float (&sums)[2][kChunk]) const {
    float values[kChunk];
    LoadChunk<Format>(values, x + row * columns + column, count);
    for (int i = 0; i < kChunk; ++i) {
      sums[0][i] += values[i];
      sums[1][i] = sums[0][i];
    }
  }
};

}  // namespace

void Add(Stream& stream, DType dtype, int64_t size, const void* a, const void* b, void* y) {
  DispatchFormat(dtype, [&](auto format) {
    using T = Storage<decltype(format)>;
    LaunchChunks(stream, "Add",
                 AddOp<decltype(format)>{1, size, static_cast<const T*>(a),
                                         static_cast<const T*>(b), static_cast<T*>(y)});
  });
}

void Convert(Stream& stream, int64_t size, DType from_dtype, const void* from, DType to_dtype,
             void* to) {
  DispatchFormat(from_dtype, [&](auto from_format) {
    DispatchFormat(to_dtype, [&](auto to_format) {
      using From = decltype(from_format);
      using To = decltype(to_format);
      LaunchChunks(stream, "Convert",
                   ConvertOp<From, To>{1, size, static_cast<const Storage<From>*>(from),
                                       static_cast<Storage<To>*>(to)});
    });
  });
}

void SumColumns(Stream& stream, const ColumnSumParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    using Format = decltype(format);
    const ColumnSumOp<Format> op = {p.rows, p.columns, static_cast<const Storage<Format>*>(p.x),
                                    p.scratch};
    LaunchColumnSums(stream, "ColumnSums", op, p.sums[0], p.sums[1], p.add);
  });
}

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
