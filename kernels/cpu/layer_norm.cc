#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

using cpu::AsFloat;
using cpu::ForEachPiece;
using cpu::kPiece;

template <typename T>
float Mean(const T* x, int64_t c) {
  float total = 0.0f;
  ForEachPiece(c, [&](int64_t begin, int64_t count) {
    float buffer[kPiece];
    const float* values = AsFloat(x + begin, buffer, count);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += values[i];
    total += sum;
  });
  return total / static_cast<float>(c);
}

template <typename T>
float Variance(const T* x, float mean, int64_t c) {
  float total = 0.0f;
  ForEachPiece(c, [&](int64_t begin, int64_t count) {
    float buffer[kPiece];
    const float* values = AsFloat(x + begin, buffer, count);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += (values[i] - mean) * (values[i] - mean);
    total += sum;
  });
  return total / static_cast<float>(c);
}

template <typename T>
void ForwardRow(const LayerNormForwardArgs& args, int64_t row) {
  const int64_t c = args.x.dim(1);
  const T* x = args.x.data<T>() + row * c;
  T* y = args.y.data<T>() + row * c;
  const float mean = Mean(x, c);
  const float rstd = 1.0f / std::sqrt(Variance(x, mean, c) + args.eps);
  args.mean.data<float>()[row] = mean;
  args.rstd.data<float>()[row] = rstd;
  ForEachPiece(c, [&](int64_t begin, int64_t count) {
    float buffers[4][kPiece];
    const float* values = AsFloat(x + begin, buffers[0], count);
    const float* gamma = AsFloat(args.gamma.data<T>() + begin, buffers[1], count);
    const float* beta = AsFloat(args.beta.data<T>() + begin, buffers[2], count);
    float* result = buffers[3];
    for (int64_t i = 0; i < count; ++i) {
      result[i] = std::fma((values[i] - mean) * rstd, gamma[i], beta[i]);
    }
    cpu::Narrow(result, y + begin, count);
  });
}

// Undoes y = xhat gamma + beta with xhat = (x - mean) rstd:
//   g = dy gamma;  dx = rstd (g - mean(g) - xhat mean(g xhat));  dgamma += dy xhat;  dbeta += dy.
template <typename T>
void BackwardRow(const LayerNormBackwardArgs& args, int64_t row, float* dgamma, float* dbeta) {
  const int64_t c = args.x.dim(1);
  const T* x = args.x.data<T>() + row * c;
  const T* dy = args.dy.data<T>() + row * c;
  const T* gamma = args.gamma.data<T>();
  T* dx = args.dx.data<T>() + row * c;
  const float mean = args.mean.data<float>()[row];
  const float rstd = args.rstd.data<float>()[row];
  float buffers[5][kPiece];

  float sum_g = 0.0f;
  float sum_gx = 0.0f;
  ForEachPiece(c, [&](int64_t begin, int64_t count) {
    const float* xs = AsFloat(x + begin, buffers[0], count);
    const float* dys = AsFloat(dy + begin, buffers[1], count);
    const float* gammas = AsFloat(gamma + begin, buffers[2], count);
    float piece_g = 0.0f;
    float piece_gx = 0.0f;
#pragma omp simd reduction(+ : piece_g, piece_gx)
    for (int64_t i = 0; i < count; ++i) {
      const float g = dys[i] * gammas[i];
      piece_g += g;
      piece_gx += g * ((xs[i] - mean) * rstd);
    }
    sum_g += piece_g;
    sum_gx += piece_gx;
  });
  const float mean_g = sum_g / static_cast<float>(c);
  const float mean_gx = sum_gx / static_cast<float>(c);

  ForEachPiece(c, [&](int64_t begin, int64_t count) {
    const float* xs = AsFloat(x + begin, buffers[0], count);
    const float* dys = AsFloat(dy + begin, buffers[1], count);
    const float* gammas = AsFloat(gamma + begin, buffers[2], count);
    float* dxs = buffers[3];
    for (int64_t i = 0; i < count; ++i) {
      const float xhat = (xs[i] - mean) * rstd;
      dgamma[begin + i] = std::fma(dys[i], xhat, dgamma[begin + i]);
      dbeta[begin + i] += dys[i];
      dxs[i] = rstd * std::fma(-xhat, mean_gx, dys[i] * gammas[i] - mean_g);
    }
    if (args.dx_mode == GradMode::kAccumulate) {
      const float* previous = AsFloat(dx + begin, buffers[4], count);
      for (int64_t i = 0; i < count; ++i) dxs[i] += previous[i];
    }
    cpu::Narrow(dxs, dx + begin, count);
  });
}

}  // namespace

void cpu::LayerNormForward(Context& ctx, const LayerNormForwardArgs& args) {
  constexpr int64_t kGrain = 16;
  DispatchCompute(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ParallelForRange(ctx, args.x.dim(0), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) ForwardRow<T>(args, row);
    });
  });
}

void cpu::LayerNormBackward(Context& ctx, const LayerNormBackwardArgs& args) {
  const int64_t m = args.x.dim(0);
  const int64_t c = args.x.dim(1);
  ScratchScope scratch(*ctx.scratch);
  const TensorView dgamma =
      scratch.Allocate("layer_norm.dgamma", DType::kFloat32, {NumRowBlocks(m), c});
  const TensorView dbeta =
      scratch.Allocate("layer_norm.dbeta", DType::kFloat32, {NumRowBlocks(m), c});
  DispatchCompute(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ParallelForRange(ctx, m, kRowBlock, [&](int64_t begin, int64_t end) {
      float* gamma_sums = dgamma.data<float>() + begin / kRowBlock * c;
      float* beta_sums = dbeta.data<float>() + begin / kRowBlock * c;
      std::fill_n(gamma_sums, c, 0.0f);
      std::fill_n(beta_sums, c, 0.0f);
      for (int64_t row = begin; row < end; ++row) {
        BackwardRow<T>(args, row, gamma_sums, beta_sums);
      }
    });
  });
  SumPartials(ctx, dgamma, args.dgamma, args.grad_mode);
  SumPartials(ctx, dbeta, args.dbeta, args.grad_mode);
}

int64_t cpu::LayerNormScratchBytes(int64_t m, int64_t c) { return 2 * ColumnPartialBytes(m, c); }

}  // namespace sepia::kernels
