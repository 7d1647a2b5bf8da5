#include "kernels/rotary.h"

#include <cmath>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

using cpu::AsFloat;
using cpu::ForEachPiece;
using cpu::kPiece;

// (a, b) -> (a cos - b sin, b cos + a sin), half dimensions apart; sign = -1 turns back.
template <typename T>
void RotateHead(T* head, const float* cos, const float* sin, int64_t half, float sign) {
  ForEachPiece(half, [&](int64_t begin, int64_t count) {
    float buffers[4][kPiece];
    const float* a = AsFloat(head + begin, buffers[0], count);
    const float* b = AsFloat(head + half + begin, buffers[1], count);
    for (int64_t i = 0; i < count; ++i) {
      const float c = cos[begin + i];
      const float s = sign * sin[begin + i];
      buffers[2][i] = std::fma(a[i], c, -(b[i] * s));
      buffers[3][i] = std::fma(b[i], c, a[i] * s);
    }
    cpu::Narrow(buffers[2], head + begin, count);
    cpu::Narrow(buffers[3], head + half + begin, count);
  });
}

void Rotate(Context& ctx, const RotaryArgs& args, float sign) {
  constexpr int64_t kGrain = 8;
  const int64_t seq_length = args.qkv.dim(1);
  const int64_t num_heads = args.qkv.dim(2);
  const int64_t head_dim = args.qkv.dim(4);
  const int64_t half = args.cos.dim(1);
  cpu::DispatchCompute(args.qkv.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t num_rows = args.qkv.dim(0) * seq_length;
    cpu::ParallelForRange(ctx, num_rows, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float* cos = args.cos.data<float>() + row % seq_length * half;
        const float* sin = args.sin.data<float>() + row % seq_length * half;
        T* heads = args.qkv.data<T>() + row * num_heads * 3 * head_dim;
        for (int64_t h = 0; h < num_heads; ++h) {
          T* query = heads + h * 3 * head_dim;
          RotateHead(query, cos, sin, half, sign);
          RotateHead(query + head_dim, cos, sin, half, sign);
        }
      }
    });
  });
}

}  // namespace

void cpu::RotaryForward(Context& ctx, const RotaryArgs& args) { Rotate(ctx, args, 1.0f); }

void cpu::RotaryBackward(Context& ctx, const RotaryArgs& args) { Rotate(ctx, args, -1.0f); }

}  // namespace sepia::kernels
