#include "kernels/gelu.h"

#include "kernels/check_args.h"
#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {

void BiasGeluForward(Context& ctx, const BiasGeluForwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.x, "x");
  const DType dtype = args.x.dtype();
  CheckComputeDType(dtype, "x");
  CheckTensor(args.bias, "bias", dtype, {args.x.dim(1)});
  CheckTensor(args.y, "y", dtype, args.x.shape());
  CHECK(args.y.raw() != args.x.raw() || args.x.num_elements() == 0, "y aliases x");
  OnCuda(ctx) ? cuda::BiasGeluForward(ctx, args) : cpu::BiasGeluForward(ctx, args);
}

void BiasGeluBackward(Context& ctx, const BiasGeluBackwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.x, "x");
  const DType dtype = args.x.dtype();
  CheckComputeDType(dtype, "x");
  CheckTensor(args.bias, "bias", dtype, {args.x.dim(1)});
  CheckTensor(args.dy, "dy", dtype, args.x.shape());
  CheckTensor(args.dx, "dx", dtype, args.x.shape());
  CheckTensor(args.dbias, "dbias", DType::kFloat32, {args.x.dim(1)});
  CheckOptional(args.y, "y", dtype, args.x.shape());
  OnCuda(ctx) ? cuda::BiasGeluBackward(ctx, args) : cpu::BiasGeluBackward(ctx, args);
}

int64_t BiasGeluScratchBytes(int64_t m, int64_t f, Device device) {
  return device == Device::kCuda ? cuda::InArena(cuda::ColumnSumScratchBytes(m, f))
                                 : cpu::BiasGeluScratchBytes(m, f);
}

}  // namespace sepia::kernels
