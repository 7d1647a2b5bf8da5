#include "kernels/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

// Partial sums in fixed lanes: the compiler may vectorise, the order does not change.
float Dot(const float* a, const float* b, int64_t count) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= count; d += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[d + lane] * b[d + lane];
  }
  float sum = 0;
  for (; d < count; ++d) sum += a[d] * b[d];
  for (const float lane : lanes) sum += lane;
  return sum;
}

// One query of one head.
template <typename T>
struct Query {
  const T* q;
  const T* keys;  // of this head; rows `stride` apart
  const T* values;
  int64_t stride;
  int64_t head_dim;
  int64_t position;
  std::span<const int32_t> far;  // packed keys before the band
  int64_t band_begin;
  float* scores;  // as many as keys are visible
  T* out;

  int64_t num_visible() const {
    return static_cast<int64_t>(far.size()) + position + 1 - band_begin;
  }
  // Position of visible key number k.
  int64_t key(int64_t k) const {
    const auto num_far = static_cast<int64_t>(far.size());
    return k < num_far ? far[static_cast<size_t>(k)] : band_begin + k - num_far;
  }

  void Run() const {
    float query[cpu::kPiece], buffer[cpu::kPiece], sum[cpu::kPiece] = {};
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const float* wide = cpu::AsFloat(q, query, head_dim);
    const int64_t count = num_visible();
    float top = -std::numeric_limits<float>::infinity();
    for (int64_t k = 0; k < count; ++k) {
      const float* row = cpu::AsFloat(keys + key(k) * stride, buffer, head_dim);
      scores[k] = Dot(wide, row, head_dim) * scale;
      top = std::max(top, scores[k]);
    }
    float total = 0;
    for (int64_t k = 0; k < count; ++k) {
      const float p = std::exp(scores[k] - top);
      total += p;
      const float* row = cpu::AsFloat(values + key(k) * stride, buffer, head_dim);
      for (int64_t d = 0; d < head_dim; ++d) sum[d] += p * row[d];
    }
    for (int64_t d = 0; d < head_dim; ++d) sum[d] /= total;
    cpu::Narrow(sum, out, head_dim);
  }
};

template <typename T>
void AppendToCache(const CachedAttentionArgs& args) {
  const int64_t num_heads = args.qkv.dim(1);
  const int64_t head_dim = args.qkv.dim(3);
  const auto bytes = static_cast<size_t>(head_dim) * sizeof(T);
  const T* from = args.qkv.data<T>();
  for (int64_t row = 0; row < args.qkv.dim(0) * num_heads; ++row) {
    const int64_t to = (args.begin * num_heads + row) * head_dim;
    std::memcpy(args.keys.data<T>() + to, from + (row * 3 + 1) * head_dim, bytes);
    std::memcpy(args.values.data<T>() + to, from + (row * 3 + 2) * head_dim, bytes);
  }
}

template <typename T>
void Run(Context& ctx, const CachedAttentionArgs& args) {
  AppendToCache<T>(args);
  const int64_t num_heads = args.qkv.dim(1);
  const int64_t head_dim = args.qkv.dim(3);
  const int64_t length = args.begin + args.qkv.dim(0);
  ScratchScope scratch(*ctx.scratch);
  const TensorView scores = scratch.Allocate("scores", DType::kFloat32, {ctx.num_threads, length});
  cpu::ParallelFor(ctx, args.qkv.dim(0) * num_heads, [&](int64_t item) {
    const int64_t head = item % num_heads;
    const int64_t position = args.begin + item / num_heads;
    std::span<const int32_t> far;
    if (args.index != nullptr && position >= args.window) {
      const int32_t num_far = args.index->count(0)[static_cast<size_t>(position - args.window)];
      far = args.index->positions(0).first(static_cast<size_t>(num_far));
    }
    Query<T>{.q = args.qkv.data<T>() + item * 3 * head_dim,
             .keys = args.keys.data<T>() + head * head_dim,
             .values = args.values.data<T>() + head * head_dim,
             .stride = num_heads * head_dim,
             .head_dim = head_dim,
             .position = position,
             .far = far,
             .band_begin = std::max<int64_t>(0, position - args.window + 1),
             .scores = scores.data<float>() + cpu::ThreadIndex() * length,
             .out = args.out.data<T>() + item * head_dim}
        .Run();
  });
}

}  // namespace

void cpu::CachedAttention(Context& ctx, const CachedAttentionArgs& args) {
  CHECK_LE(args.qkv.dim(3), kPiece);
  DispatchCompute(args.qkv.dtype(), [&](auto tag) { Run<decltype(tag)>(ctx, args); });
}

}  // namespace sepia::kernels
