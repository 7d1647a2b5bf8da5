#include "kernels/cpu/column_sums.h"

#include <algorithm>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/isa/sum_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels::cpu {

void SumPartials(const Context& ctx, const ConstTensorView& partials, const TensorView& out,
                 GradMode mode) {
  const int64_t num_blocks = partials.dim(0);
  const int64_t c = partials.dim(1);
  const float* from = partials.data<float>();
  float* to = out.data<float>();
  ParallelForRange(ctx, c, kPiece, [&](int64_t begin, int64_t end) {
    float sum[kPiece] = {};
    for (int64_t block = 0; block < num_blocks; ++block) {
      const float* row = from + block * c + begin;
      for (int64_t i = 0; i < end - begin; ++i) sum[i] += row[i];
    }
    for (int64_t i = begin; i < end; ++i) {
      to[i] = mode == GradMode::kAccumulate ? to[i] + sum[i - begin] : sum[i - begin];
    }
  });
}

void ColumnSums(Context& ctx, const ConstTensorView& x, const TensorView& out, GradMode mode) {
  const int64_t m = x.dim(0);
  const int64_t c = x.dim(1);
  ScratchScope scratch(*ctx.scratch);
  const TensorView partials =
      scratch.Allocate("column_sums", DType::kFloat32, {NumRowBlocks(m), c});
  ParallelForRange(ctx, m, kRowBlock, [&](int64_t begin, int64_t end) {
    float* sums = partials.data<float>() + begin / kRowBlock * c;
    std::fill_n(sums, c, 0.0f);
    // Pieces of columns, whose sums stay in the first cache.
    ForEachPiece(c, [&](int64_t column, int64_t count) {
      const auto* rows = static_cast<const std::byte*>(x.raw()) + column * DTypeSize(x.dtype());
      for (int64_t row = begin; row < end; ++row) {
        SEPIA_BY_ISA(AddToSums)
        (x.dtype(), rows + row * c * DTypeSize(x.dtype()), count, sums + column);
      }
    });
  });
  SumPartials(ctx, partials, out, mode);
}

}  // namespace sepia::kernels::cpu
