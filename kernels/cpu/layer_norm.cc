#include "kernels/layer_norm.h"

#include <algorithm>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/isa/norm_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {

void cpu::LayerNormForward(Context& ctx, const LayerNormForwardArgs& args) {
  constexpr int64_t kGrain = 16;
  ParallelForRange(ctx, args.x.dim(0), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      SEPIA_BY_ISA(Normalize)
      ({.dtype = args.x.dtype(),
        .size = args.x.dim(1),
        .x = args.x.Rows(row, 1).raw(),
        .gamma = args.gamma.raw(),
        .beta = args.beta.raw(),
        .y = args.y.Rows(row, 1).raw(),
        .mean = args.mean.data<float>() + row,
        .rstd = args.rstd.data<float>() + row,
        .eps = args.eps});
    }
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
  ParallelForRange(ctx, m, kRowBlock, [&](int64_t begin, int64_t end) {
    float* gamma_sums = dgamma.data<float>() + begin / kRowBlock * c;
    float* beta_sums = dbeta.data<float>() + begin / kRowBlock * c;
    std::fill_n(gamma_sums, c, 0.0f);
    std::fill_n(beta_sums, c, 0.0f);
    for (int64_t row = begin; row < end; ++row) {
      SEPIA_BY_ISA(NormGradient)
      ({.dtype = args.x.dtype(),
        .size = c,
        .x = args.x.Rows(row, 1).raw(),
        .gamma = args.gamma.raw(),
        .dy = args.dy.Rows(row, 1).raw(),
        .dx = args.dx.Rows(row, 1).raw(),
        .dgamma = gamma_sums,
        .dbeta = beta_sums,
        .mean = args.mean.data<float>()[row],
        .rstd = args.rstd.data<float>()[row],
        .accumulate = args.dx_mode == GradMode::kAccumulate});
    }
  });
  SumPartials(ctx, dgamma, args.dgamma, args.grad_mode);
  SumPartials(ctx, dbeta, args.dbeta, args.grad_mode);
}

int64_t cpu::LayerNormScratchBytes(int64_t m, int64_t c) { return 2 * ColumnPartialBytes(m, c); }

}  // namespace sepia::kernels
