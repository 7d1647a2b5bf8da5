#include "kernels/layer_norm.h"

#include "kernels/check_args.h"

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
  cpu::LayerNormForward(ctx, args);
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
  cpu::LayerNormBackward(ctx, args);
}

}  // namespace sepia::kernels
