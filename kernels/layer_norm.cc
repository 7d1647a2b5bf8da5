#include "kernels/layer_norm.h"

#include "kernels/check_args.h"
#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {

void LayerNormForward(Context& ctx, const LayerNormForwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.x, "x");
  const DType dtype = args.x.dtype();
  const int64_t m = args.x.dim(0);
  const int64_t c = args.x.dim(1);
  CHECK_GE(c, 1);
  CheckComputeDType(dtype, "x");
  CheckTensor(args.gamma, "gamma", dtype, {c});
  CheckTensor(args.beta, "beta", dtype, {c});
  CheckTensor(args.y, "y", dtype, {m, c});
  CheckTensor(args.mean, "mean", DType::kFloat32, {m});
  CheckTensor(args.rstd, "rstd", DType::kFloat32, {m});
  OnCuda(ctx) ? cuda::LayerNormForward(ctx, args) : cpu::LayerNormForward(ctx, args);
}

void LayerNormBackward(Context& ctx, const LayerNormBackwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.x, "x");
  const DType dtype = args.x.dtype();
  const int64_t m = args.x.dim(0);
  const int64_t c = args.x.dim(1);
  CHECK_GE(c, 1);
  CheckComputeDType(dtype, "x");
  CheckTensor(args.gamma, "gamma", dtype, {c});
  CheckTensor(args.mean, "mean", DType::kFloat32, {m});
  CheckTensor(args.rstd, "rstd", DType::kFloat32, {m});
  CheckTensor(args.dy, "dy", dtype, {m, c});
  CheckTensor(args.dx, "dx", dtype, {m, c});
  CheckTensor(args.dgamma, "dgamma", DType::kFloat32, {c});
  CheckTensor(args.dbeta, "dbeta", DType::kFloat32, {c});
  OnCuda(ctx) ? cuda::LayerNormBackward(ctx, args) : cpu::LayerNormBackward(ctx, args);
}

int64_t LayerNormScratchBytes(int64_t m, int64_t c, Device device) {
  return device == Device::kCuda ? cuda::InArena(cuda::ColumnSumScratchBytes(m, c))
                                 : cpu::LayerNormScratchBytes(m, c);
}

}  // namespace sepia::kernels
