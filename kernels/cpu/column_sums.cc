#include "kernels/cpu/column_sums.h"

#include <algorithm>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels::cpu {
namespace {

template <typename T>
void AddRows(const T* x, int64_t rows, int64_t c, float* sums) {
  std::fill_n(sums, c, 0.0f);
  ForEachPiece(c, [&](int64_t begin, int64_t count) {
    float buffer[kPiece];
    for (int64_t row = 0; row < rows; ++row) {
      const float* values = AsFloat(x + row * c + begin, buffer, count);
      for (int64_t i = 0; i < count; ++i) sums[begin + i] += values[i];
    }
  });
}

}  // namespace

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
  DispatchCompute(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ParallelForRange(ctx, m, kRowBlock, [&](int64_t begin, int64_t end) {
      AddRows(x.data<T>() + begin * c, end - begin, c,
              partials.data<float>() + begin / kRowBlock * c);
    });
  });
  SumPartials(ctx, partials, out, mode);
}

}  // namespace sepia::kernels::cpu
