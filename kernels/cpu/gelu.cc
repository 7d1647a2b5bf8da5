#include "kernels/gelu.h"

#include <algorithm>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/isa/gelu_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {

void cpu::BiasGeluForward(Context& ctx, const BiasGeluForwardArgs& args) {
  constexpr int64_t kGrain = 8;
  ParallelForRange(ctx, args.x.dim(0), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      SEPIA_BY_ISA(BiasGelu)
      ({.kind = args.kind,
        .dtype = args.x.dtype(),
        .size = args.x.dim(1),
        .x = args.x.Rows(row, 1).raw(),
        .bias = args.bias.raw(),
        .y = args.y.Rows(row, 1).raw()});
    }
  });
}

void cpu::BiasGeluBackward(Context& ctx, const BiasGeluBackwardArgs& args) {
  const int64_t m = args.x.dim(0);
  const int64_t f = args.x.dim(1);
  ScratchScope scratch(*ctx.scratch);
  const TensorView partials = scratch.Allocate("gelu.dbias", DType::kFloat32, {NumRowBlocks(m), f});
  ParallelForRange(ctx, m, kRowBlock, [&](int64_t begin, int64_t end) {
    float* sums = partials.data<float>() + begin / kRowBlock * f;
    std::fill_n(sums, f, 0.0f);
    for (int64_t row = begin; row < end; ++row) {
      SEPIA_BY_ISA(BiasGeluGradient)
      ({.kind = args.kind,
        .dtype = args.x.dtype(),
        .size = f,
        .x = args.x.Rows(row, 1).raw(),
        .bias = args.bias.raw(),
        .dy = args.dy.Rows(row, 1).raw(),
        .dx = args.dx.Rows(row, 1).raw(),
        .dbias = sums,
        .y = args.y.empty() ? nullptr : args.y.Rows(row, 1).raw()});
    }
  });
  SumPartials(ctx, partials, args.dbias, args.grad_mode);
}

int64_t cpu::BiasGeluScratchBytes(int64_t m, int64_t f) { return ColumnPartialBytes(m, f); }

}  // namespace sepia::kernels
