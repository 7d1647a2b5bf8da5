#include "kernels/elementwise.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/isa/sum_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

using cpu::AsFloat;
using cpu::kPiece;

constexpr int64_t kGrain = 32 * kPiece;  // elements a thread takes at a time
constexpr int64_t kRowGrain = 16;

}  // namespace

void cpu::AddBiasResidualForward(Context& ctx, const AddBiasResidualArgs& args) {
  ParallelForRange(ctx, args.x.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      SEPIA_BY_ISA(SumRows)
      ({.dtype = args.x.dtype(),
        .size = args.x.dim(1),
        .a = args.x.Rows(row, 1).raw(),
        .b = args.partial.Rows(row, 1).raw(),
        .c = args.bias1.raw(),
        .d = args.bias2.empty() ? nullptr : args.bias2.raw(),
        .y = args.y.Rows(row, 1).raw()});
    }
  });
}

void cpu::AddBiasResidualBackward(Context& ctx, const AddBiasResidualBackwardArgs& args) {
  ScratchScope scratch(*ctx.scratch);
  const TensorView sums = scratch.Allocate("bias_sums", DType::kFloat32, {1, args.dy.dim(1)});
  ColumnSums(ctx, args.dy, sums.Reshaped({args.dy.dim(1)}), GradMode::kOverwrite);
  SumPartials(ctx, sums, args.dbias1, args.grad_mode);
  if (!args.dbias2.empty()) SumPartials(ctx, sums, args.dbias2, args.grad_mode);
}

void cpu::Add(Context& ctx, const AddArgs& args) {
  const DType dtype = args.a.dtype();
  ParallelForRange(ctx, args.a.num_elements(), kGrain, [&](int64_t first, int64_t end) {
    const int64_t at = first * DTypeSize(dtype);
    SEPIA_BY_ISA(SumRows)
    ({.dtype = dtype,
      .size = end - first,
      .a = static_cast<const std::byte*>(args.a.raw()) + at,
      .b = static_cast<const std::byte*>(args.b.raw()) + at,
      .c = nullptr,
      .d = nullptr,
      .y = static_cast<std::byte*>(args.y.raw()) + at});
  });
}

void cpu::Cast(Context& ctx, const ConstTensorView& from, const TensorView& to) {
  DispatchCompute(from.dtype(), [&](auto from_tag) {
    using From = decltype(from_tag);
    DispatchCompute(to.dtype(), [&](auto to_tag) {
      using To = decltype(to_tag);
      ParallelForRange(ctx, from.num_elements(), kGrain, [&](int64_t first, int64_t end) {
        ForEachPiece(end - first, [&](int64_t offset, int64_t count) {
          float buffer[kPiece];
          const float* values = AsFloat(from.data<From>() + first + offset, buffer, count);
          Narrow(values, to.data<To>() + first + offset, count);
        });
      });
    });
  });
}

void cpu::Zero(Context& ctx, const TensorView& y) {
  auto* bytes = static_cast<std::byte*>(y.raw());
  ParallelForRange(ctx, y.num_bytes(), int64_t{1} << 20, [&](int64_t begin, int64_t end) {
    std::memset(bytes + begin, 0, static_cast<size_t>(end - begin));
  });
}

int64_t cpu::ColumnSumScratchBytes(int64_t m, int64_t c) {
  return cpu::ColumnPartialBytes(m, c) + cpu::ColumnPartialBytes(1, c);
}

}  // namespace sepia::kernels
