#include "kernels/linear.h"

#include "kernels/check_args.h"
#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {

void LinearForward(Context& ctx, const LinearForwardArgs& args) {
  const ConstTensorView& weight = args.weight.canonical;
  CheckDevice(ctx);
  CheckMatrix(args.x, "x");
  CheckMatrix(weight, "weight");
  const DType dtype = args.x.dtype();
  CheckComputeDType(dtype, "x");
  CheckTensor(weight, "weight", dtype, {weight.dim(0), args.x.dim(1)});
  CheckOptional(args.bias, "bias", dtype, {weight.dim(0)});
  CheckTensor(args.y, "y", dtype, {args.x.dim(0), weight.dim(0)});
  OnCuda(ctx) ? cuda::LinearForward(ctx, args) : cpu::LinearForward(ctx, args);
}

void LinearBackward(Context& ctx, const LinearBackwardArgs& args) {
  const ConstTensorView& weight = args.weight.canonical;
  CheckDevice(ctx);
  CheckMatrix(args.x, "x");
  CheckMatrix(weight, "weight");
  const DType dtype = args.x.dtype();
  CheckComputeDType(dtype, "x");
  CheckTensor(weight, "weight", dtype, {weight.dim(0), args.x.dim(1)});
  CheckTensor(args.dy, "dy", dtype, {args.x.dim(0), weight.dim(0)});
  CheckOptional(args.dx, "dx", dtype, args.x.shape());
  CheckOptional(args.dweight, "dweight", DType::kFloat32, weight.shape());
  CheckOptional(args.dbias, "dbias", DType::kFloat32, {weight.dim(0)});
  OnCuda(ctx) ? cuda::LinearBackward(ctx, args) : cpu::LinearBackward(ctx, args);
}

int64_t LinearScratchBytes(int64_t m, int64_t n, int64_t k, DType dtype, int num_threads,
                           Device device) {
  return device == Device::kCuda ? cuda::InArena(cuda::ColumnSumScratchBytes(m, n))
                                 : cpu::LinearScratchBytes(m, n, k, dtype, num_threads);
}

}  // namespace sepia::kernels
