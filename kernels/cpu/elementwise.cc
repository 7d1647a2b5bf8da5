#include "kernels/elementwise.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

using cpu::AsFloat;
using cpu::kPiece;

constexpr int64_t kGrain = 32 * kPiece;  // elements a thread takes at a time
constexpr int64_t kRowGrain = 16;

template <typename T>
void AddRow(const AddBiasResidualArgs& args, int64_t row) {
  const int64_t c = args.x.dim(1);
  const T* x = args.x.data<T>() + row * c;
  const T* partial = args.partial.data<T>() + row * c;
  const T* bias1 = args.bias1.data<T>();
  const T* bias2 = args.bias2.empty() ? nullptr : args.bias2.data<T>();
  T* y = args.y.data<T>() + row * c;
  cpu::ForEachPiece(c, [&](int64_t begin, int64_t count) {
    float sum[kPiece];
    float buffer[kPiece];
    cpu::Widen(x + begin, sum, count);
    const auto add = [&](const T* term) {
      const float* values = AsFloat(term + begin, buffer, count);
      for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
    };
    add(partial);
    add(bias1);
    if (bias2 != nullptr) add(bias2);
    cpu::Narrow(sum, y + begin, count);
  });
}

}  // namespace

void cpu::AddBiasResidualForward(Context& ctx, const AddBiasResidualArgs& args) {
  DispatchCompute(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ParallelForRange(ctx, args.x.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) AddRow<T>(args, row);
    });
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
  DispatchCompute(args.a.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* a = args.a.data<T>();
    const T* b = args.b.data<T>();
    T* y = args.y.data<T>();
    ParallelForRange(ctx, args.a.num_elements(), kGrain, [&](int64_t first, int64_t end) {
      ForEachPiece(end - first, [&](int64_t offset, int64_t count) {
        float sum[kPiece];
        float buffer[kPiece];
        Widen(a + first + offset, sum, count);
        const float* values = AsFloat(b + first + offset, buffer, count);
        for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
        Narrow(sum, y + first + offset, count);
      });
    });
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
