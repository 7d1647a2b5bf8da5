#include "kernels/linear.h"

#include "kernels/check_args.h"

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
  cpu::LinearForward(ctx, args);
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
  cpu::LinearBackward(ctx, args);
}

}  // namespace sepia::kernels
