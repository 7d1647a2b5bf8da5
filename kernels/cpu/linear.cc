#include "kernels/linear.h"

#include <algorithm>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/gemm.h"

namespace sepia::kernels {
namespace {

cpu::MatrixRef Matrix(const ConstTensorView& tensor) {
  // A stride of a dimension without extent still has to be positive.
  return {tensor.raw(), std::max<int64_t>(tensor.dim(1), 1), 1};
}

}  // namespace

void cpu::LinearForward(Context& ctx, const LinearForwardArgs& args) {
  Gemm(ctx, {.a = Matrix(args.x),
             .b = Matrix(args.weight.canonical).Transposed(),
             .dtype = args.x.dtype(),
             .k = args.x.dim(1),
             .bias = args.bias,
             .c = args.y,
             .mode = args.mode});
}

void cpu::LinearBackward(Context& ctx, const LinearBackwardArgs& args) {
  const DType dtype = args.x.dtype();
  if (!args.dx.empty()) {
    Gemm(ctx, {.a = Matrix(args.dy),
               .b = Matrix(args.weight.canonical),
               .dtype = dtype,
               .k = args.dy.dim(1),
               .bias = {},
               .c = args.dx,
               .mode = args.dx_mode});
  }
  if (!args.dweight.empty()) {
    Gemm(ctx, {.a = Matrix(args.dy).Transposed(),
               .b = Matrix(args.x),
               .dtype = dtype,
               .k = args.x.dim(0),
               .bias = {},
               .c = args.dweight,
               .mode = args.grad_mode});
  }
  if (!args.dbias.empty()) ColumnSums(ctx, args.dy, args.dbias, args.grad_mode);
}

int64_t cpu::LinearScratchBytes(int64_t m, int64_t n, int64_t k, DType dtype, int num_threads) {
  return std::max({cpu::GemmScratchBytes(m, n, k, dtype, dtype, num_threads),
                   cpu::GemmScratchBytes(m, k, n, dtype, dtype, num_threads),
                   cpu::GemmScratchBytes(n, k, m, dtype, DType::kFloat32, num_threads),
                   cpu::ColumnPartialBytes(m, n)});
}

const char* LinearBackendName(DType dtype) {
  static const std::string names[] = {cpu::GemmBackendName(DType::kFloat32),
                                      cpu::GemmBackendName(DType::kBFloat16),
                                      cpu::GemmBackendName(DType::kFloat16)};
  switch (dtype) {
    case DType::kFloat32: return names[0].c_str();
    case DType::kBFloat16: return names[1].c_str();
    case DType::kFloat16: return names[2].c_str();
    default: CHECK(false, "no products of {}", DTypeName(dtype));
  }
}

}  // namespace sepia::kernels
