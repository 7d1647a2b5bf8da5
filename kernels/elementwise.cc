#include "kernels/elementwise.h"

#include "kernels/check_args.h"
#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

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
  OnCuda(ctx) ? cuda::AddBiasResidualForward(ctx, args) : cpu::AddBiasResidualForward(ctx, args);
}

void AddBiasResidualBackward(Context& ctx, const AddBiasResidualBackwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.dy, "dy");
  CheckComputeDType(args.dy.dtype(), "dy");
  CheckTensor(args.dbias1, "dbias1", DType::kFloat32, {args.dy.dim(1)});
  CheckOptional(args.dbias2, "dbias2", DType::kFloat32, {args.dy.dim(1)});
  OnCuda(ctx) ? cuda::AddBiasResidualBackward(ctx, args) : cpu::AddBiasResidualBackward(ctx, args);
}

void Add(Context& ctx, const AddArgs& args) {
  CheckDevice(ctx);
  CheckComputeDType(args.a.dtype(), "a");
  CheckTensor(args.b, "b", args.a.dtype(), args.a.shape());
  CheckTensor(args.y, "y", args.a.dtype(), args.a.shape());
  OnCuda(ctx) ? cuda::Add(ctx, args) : cpu::Add(ctx, args);
}

void Cast(Context& ctx, ConstTensorView from, TensorView to) {
  CheckDevice(ctx);
  CheckComputeDType(from.dtype(), "from");
  CheckComputeDType(to.dtype(), "to");
  CHECK_EQ(from.shape(), to.shape());
  OnCuda(ctx) ? cuda::Cast(ctx, from, to) : cpu::Cast(ctx, from, to);
}

void Zero(Context& ctx, TensorView y) {
  CheckDevice(ctx);
  OnCuda(ctx) ? cuda::Zero(ctx, y) : cpu::Zero(ctx, y);
}

int64_t ColumnSumScratchBytes(int64_t m, int64_t c, Device device) {
  return device == Device::kCuda ? cuda::InArena(cuda::ColumnSumScratchBytes(m, c))
                                 : cpu::ColumnSumScratchBytes(m, c);
}

}  // namespace sepia::kernels
