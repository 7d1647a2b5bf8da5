#include "kernels/cuda/dense_ops.cuh"

namespace sepia::kernels::cuda {
namespace {

constexpr int kRowsOfBlock = kDenseThreads / 32;  // a warp a row

// fn(column, count) for the chunks of a row that the lane owns.
template <typename Fn>
SEPIA_DEVICE void ForLaneChunks(int64_t columns, const Fn& fn) {
  for (int64_t column = (ThreadIndex() & 31) * kChunk; column < columns; column += 32 * kChunk) {
    fn(column, static_cast<int>(columns - column < kChunk ? columns - column : kChunk));
  }
}

template <typename Format>
SEPIA_KERNEL(kDenseThreads, 1)
LayerNormForwardRows(const LayerNormParams p) {
  const int64_t row = static_cast<int64_t>(BlockIndexX()) * kRowsOfBlock + ThreadIndex() / 32;
  if (row >= p.rows) return;
  using T = Storage<Format>;
  const T* x = static_cast<const T*>(p.x) + row * p.columns;
  float sum = 0;
  ForLaneChunks(p.columns, [&](int64_t column, int count) {
    float values[kChunk];
    LoadChunk<Format>(values, x + column, count);
    for (const float value : values) sum += value;
  });
  const float mean = WarpSum(sum) / static_cast<float>(p.columns);
  sum = 0;
  ForLaneChunks(p.columns, [&](int64_t column, int count) {
    float values[kChunk];
    LoadChunk<Format>(values, x + column, count);
    for (int i = 0; i < count; ++i) sum += (values[i] - mean) * (values[i] - mean);
  });
  const float variance = WarpSum(sum) / static_cast<float>(p.columns);
  const float rstd = 1.0f / sqrtf(variance + p.eps);
  ForLaneChunks(p.columns, [&](int64_t column, int count) {
    float values[kChunk], gamma[kChunk], beta[kChunk];
    LoadChunk<Format>(values, x + column, count);
    LoadChunk<Format>(gamma, static_cast<const T*>(p.gamma) + column, count);
    LoadChunk<Format>(beta, static_cast<const T*>(p.beta) + column, count);
    for (int i = 0; i < kChunk; ++i) values[i] = (values[i] - mean) * rstd * gamma[i] + beta[i];
    StoreChunk<Format>(static_cast<T*>(p.y) + row * p.columns + column, values, count);
  });
  if ((ThreadIndex() & 31) == 0) {
    StoreGlobal(p.mean + row, mean);
    StoreGlobal(p.rstd + row, rstd);
  }
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy gamma.
template <typename Format>
SEPIA_KERNEL(kDenseThreads, 1)
LayerNormBackwardRows(const LayerNormParams p) {
  const int64_t row = static_cast<int64_t>(BlockIndexX()) * kRowsOfBlock + ThreadIndex() / 32;
  if (row >= p.rows) return;
  using T = Storage<Format>;
  const float mean = LoadGlobal(p.mean + row), rstd = LoadGlobal(p.rstd + row);
  const auto load = [&](int64_t column, int count, float(&g)[kChunk], float(&xhat)[kChunk]) {
    float gamma[kChunk];
    LoadChunk<Format>(xhat, static_cast<const T*>(p.x) + row * p.columns + column, count);
    LoadChunk<Format>(g, static_cast<const T*>(p.dy) + row * p.columns + column, count);
    LoadChunk<Format>(gamma, static_cast<const T*>(p.gamma) + column, count);
    for (int i = 0; i < kChunk; ++i) {
      xhat[i] = (xhat[i] - mean) * rstd;
      g[i] *= gamma[i];
    }
  };
  float sum_g = 0, sum_gx = 0;
  ForLaneChunks(p.columns, [&](int64_t column, int count) {
    float g[kChunk], xhat[kChunk];
    load(column, count, g, xhat);
    for (int i = 0; i < kChunk; ++i) {
      sum_g += g[i];
      sum_gx += g[i] * xhat[i];
    }
  });
  const float mean_g = WarpSum(sum_g) / static_cast<float>(p.columns);
  const float mean_gx = WarpSum(sum_gx) / static_cast<float>(p.columns);
  ForLaneChunks(p.columns, [&](int64_t column, int count) {
    float g[kChunk], xhat[kChunk], dx[kChunk] = {};
    load(column, count, g, xhat);
    T* const to = static_cast<T*>(p.dx) + row * p.columns + column;
    if (p.add_dx) LoadChunk<Format>(dx, to, count);
    for (int i = 0; i < kChunk; ++i) dx[i] += rstd * (g[i] - mean_g - xhat[i] * mean_gx);
    StoreChunk<Format>(to, dx, count);
  });
}

// Sums of dy xhat and dy.
template <typename Format>
struct LayerNormSums {
  int64_t rows, columns;
  const Storage<Format>*x, *dy;
  const float *mean, *rstd;
  float* scratch;

  SEPIA_DEVICE void Row(int64_t row, int64_t column, int count, float (&sums)[2][kChunk]) const {
    float values[kChunk], gradient[kChunk];
    LoadChunk<Format>(values, x + row * columns + column, count);
    LoadChunk<Format>(gradient, dy + row * columns + column, count);
    const float row_mean = LoadGlobal(mean + row), row_rstd = LoadGlobal(rstd + row);
    for (int i = 0; i < kChunk; ++i) {
      sums[0][i] += gradient[i] * ((values[i] - row_mean) * row_rstd);
      sums[1][i] += gradient[i];
    }
  }
};

LaunchShape RowsShape(const char* name, const LayerNormParams& p) {
  return {.name = name, .grid = {DivideUp(p.rows, kRowsOfBlock)}, .block = kDenseThreads};
}

}  // namespace

void LayerNormForward(Stream& stream, const LayerNormParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    Launch(stream, RowsShape("LayerNormForward", p), &LayerNormForwardRows<decltype(format)>, p);
  });
}

void LayerNormBackward(Stream& stream, const LayerNormParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    using Format = decltype(format);
    using T = Storage<Format>;
    Launch(stream, RowsShape("LayerNormBackward", p), &LayerNormBackwardRows<Format>, p);
    const LayerNormSums<Format> sums = {
        p.rows, p.columns, static_cast<const T*>(p.x), static_cast<const T*>(p.dy), p.mean,
        p.rstd, p.scratch};
    LaunchColumnSums(stream, "LayerNormSums", sums, p.dgamma, p.dbeta, p.add_grads);
  });
}

}  // namespace sepia::kernels::cuda
