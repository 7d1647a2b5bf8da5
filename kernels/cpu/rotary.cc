#include "kernels/rotary.h"

#include "kernels/cpu/isa/rotary_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

void RotateAll(Context& ctx, const RotaryArgs& args, float sign) {
  constexpr int64_t kGrain = 8;
  const int64_t seq_length = args.qkv.dim(1);
  const int64_t num_heads = args.qkv.dim(2);
  const int64_t head_dim = args.qkv.dim(4);
  const int64_t half = args.cos.dim(1);
  cpu::ParallelForRange(ctx, args.qkv.dim(0) * seq_length, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * num_heads * 3 * head_dim * DTypeSize(args.qkv.dtype());
      SEPIA_BY_ISA(Rotate)
      ({.dtype = args.qkv.dtype(),
        .num_heads = num_heads,
        .head_dim = head_dim,
        .half = half,
        .qkv = static_cast<std::byte*>(args.qkv.raw()) + at,
        .cos = args.cos.data<float>() + row % seq_length * half,
        .sin = args.sin.data<float>() + row % seq_length * half,
        .sign = sign});
    }
  });
}

}  // namespace

void cpu::RotaryForward(Context& ctx, const RotaryArgs& args) { RotateAll(ctx, args, 1.0f); }

void cpu::RotaryBackward(Context& ctx, const RotaryArgs& args) { RotateAll(ctx, args, -1.0f); }

}  // namespace sepia::kernels
