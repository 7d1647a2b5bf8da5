#include "kernels/gelu.h"

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

constexpr float kSqrt2OverPi = 0.7978845608f;
constexpr float kCubic = 0.044715f;
constexpr float kSqrtHalf = 0.7071067812f;
constexpr float kInvSqrt2Pi = 0.3989422804f;

float Gelu(GeluKind kind, float v) {
  if (kind == GeluKind::kErf) return 0.5f * v * (1.0f + std::erf(v * kSqrtHalf));
  return 0.5f * v * (1.0f + std::tanh(kSqrt2OverPi * v * (1.0f + kCubic * v * v)));
}

float GeluGradient(GeluKind kind, float v) {
  if (kind == GeluKind::kErf) {
    return 0.5f * (1.0f + std::erf(v * kSqrtHalf)) + v * kInvSqrt2Pi * std::exp(-0.5f * v * v);
  }
  const float t = std::tanh(kSqrt2OverPi * v * (1.0f + kCubic * v * v));
  return 0.5f * (1.0f + t) +
         0.5f * v * (1.0f - t * t) * kSqrt2OverPi * (1.0f + 3.0f * kCubic * v * v);
}

template <typename T>
void ForwardRow(const BiasGeluForwardArgs& args, int64_t row) {
  const int64_t f = args.x.dim(1);
  ForEachPiece(f, [&](int64_t begin, int64_t count) {
    float buffers[3][kPiece];
    const float* x = AsFloat(args.x.data<T>() + row * f + begin, buffers[0], count);
    const float* bias = AsFloat(args.bias.data<T>() + begin, buffers[1], count);
    for (int64_t i = 0; i < count; ++i) buffers[2][i] = Gelu(args.kind, x[i] + bias[i]);
    cpu::Narrow(buffers[2], args.y.data<T>() + row * f + begin, count);
  });
}

template <typename T>
void BackwardRow(const BiasGeluBackwardArgs& args, int64_t row, float* dbias) {
  const int64_t f = args.x.dim(1);
  ForEachPiece(f, [&](int64_t begin, int64_t count) {
    float buffers[4][kPiece];
    const float* x = AsFloat(args.x.data<T>() + row * f + begin, buffers[0], count);
    const float* bias = AsFloat(args.bias.data<T>() + begin, buffers[1], count);
    const float* dy = AsFloat(args.dy.data<T>() + row * f + begin, buffers[2], count);
    for (int64_t i = 0; i < count; ++i) {
      buffers[3][i] = dy[i] * GeluGradient(args.kind, x[i] + bias[i]);
      dbias[begin + i] += buffers[3][i];
    }
    cpu::Narrow(buffers[3], args.dx.data<T>() + row * f + begin, count);
  });
}

}  // namespace

void cpu::BiasGeluForward(Context& ctx, const BiasGeluForwardArgs& args) {
  constexpr int64_t kGrain = 8;
  DispatchCompute(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ParallelForRange(ctx, args.x.dim(0), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) ForwardRow<T>(args, row);
    });
  });
}

void cpu::BiasGeluBackward(Context& ctx, const BiasGeluBackwardArgs& args) {
  const int64_t m = args.x.dim(0);
  const int64_t f = args.x.dim(1);
  ScratchScope scratch(*ctx.scratch);
  const TensorView partials = scratch.Allocate("gelu.dbias", DType::kFloat32, {NumRowBlocks(m), f});
  DispatchCompute(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ParallelForRange(ctx, m, kRowBlock, [&](int64_t begin, int64_t end) {
      float* sums = partials.data<float>() + begin / kRowBlock * f;
      std::fill_n(sums, f, 0.0f);
      for (int64_t row = begin; row < end; ++row) BackwardRow<T>(args, row, sums);
    });
  });
  SumPartials(ctx, partials, args.dbias, args.grad_mode);
}

int64_t BiasGeluScratchBytes(int64_t m, int64_t f) { return cpu::ColumnPartialBytes(m, f); }

}  // namespace sepia::kernels
