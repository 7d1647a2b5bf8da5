#include "kernels/elementwise.h"

#include "kernels/check_args.h"

namespace sepia::kernels {

void AddBiasResidualForward(Context& ctx, const AddBiasResidualArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.x, "x");
  const DType dtype = args.x.dtype();
  CheckComputeDType(dtype, "x");
  CheckTensor(args.partial, "partial", dtype, args.x.shape());
  CheckTensor(args.bias1, "bias1", dtype, {args.x.dim(1)});
  CheckOptional(args.bias2, "bias2", dtype, {args.x.dim(1)});
  CheckTensor(args.y, "y", dtype, args.x.shape());
  cpu::AddBiasResidualForward(ctx, args);
}

void AddBiasResidualBackward(Context& ctx, const AddBiasResidualBackwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.dy, "dy");
  CheckComputeDType(args.dy.dtype(), "dy");
  CheckTensor(args.dbias1, "dbias1", DType::kFloat32, {args.dy.dim(1)});
  CheckOptional(args.dbias2, "dbias2", DType::kFloat32, {args.dy.dim(1)});
  cpu::AddBiasResidualBackward(ctx, args);
}

void Add(Context& ctx, const AddArgs& args) {
  CheckDevice(ctx);
  CheckComputeDType(args.a.dtype(), "a");
  CheckTensor(args.b, "b", args.a.dtype(), args.a.shape());
  CheckTensor(args.y, "y", args.a.dtype(), args.a.shape());
  cpu::Add(ctx, args);
}

void Cast(Context& ctx, ConstTensorView from, TensorView to) {
  CheckDevice(ctx);
  CheckComputeDType(from.dtype(), "from");
  CheckComputeDType(to.dtype(), "to");
  CHECK_EQ(from.shape(), to.shape());
  cpu::Cast(ctx, from, to);
}

void Zero(Context& ctx, TensorView y) {
  CheckDevice(ctx);
  cpu::Zero(ctx, y);
}

}  // namespace sepia::kernels
