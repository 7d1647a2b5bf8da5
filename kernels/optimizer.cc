#include "kernels/optimizer.h"

#include "kernels/check_args.h"
#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {

void SquaredNorm(Context& ctx, const SquaredNormArgs& args) {
  CheckDevice(ctx);
  CheckTensor(args.x, "x", DType::kFloat32, args.x.shape());
  CheckTensor(args.sum, "sum", DType::kFloat64, {1});
  OnCuda(ctx) ? cuda::SquaredNorm(ctx, args) : cpu::SquaredNorm(ctx, args);
}

void ClipFactor(Context& ctx, const ClipFactorArgs& args) {
  CheckDevice(ctx);
  CheckTensor(args.squared_norm, "squared_norm", DType::kFloat64, {1});
  CheckTensor(args.loss_scale, "loss_scale", DType::kFloat32, {1});
  CheckTensor(args.norm, "norm", DType::kFloat64, {1});
  CheckTensor(args.grad_multiplier, "grad_multiplier", DType::kFloat32, {1});
  CheckTensor(args.skip, "skip", DType::kInt32, {1});
  CHECK(args.clip >= 0.0, "clip {}", args.clip);
  OnCuda(ctx) ? cuda::ClipFactor(ctx, args) : cpu::ClipFactor(ctx, args);
}

void AdamWUpdate(Context& ctx, const AdamWArgs& args) {
  CheckDevice(ctx);
  const OptimizerState& state = args.state;
  CheckComputeDType(state.weight.dtype(), "weight");
  const int64_t size = state.weight.num_elements();
  const auto check = [&](const ConstTensorView& tensor, const char* name, DType dtype) {
    CHECK(tensor.num_elements() == size && tensor.dtype() == dtype,
          "{} is {} {}, expected {} elements of {}", name, DTypeName(tensor.dtype()),
          tensor.shape(), size, DTypeName(dtype));
  };
  if (const std::optional<DType> dtype = MasterDType(state.weight.dtype())) {
    check(state.master, "master", *dtype);
  } else {
    CHECK(state.master.empty(), "an fp32 weight is its own master");
  }
  check(state.exp_avg, "exp_avg", DType::kFloat32);
  check(state.exp_avg_sq, "exp_avg_sq", DType::kFloat32);
  check(args.grad, "grad", DType::kFloat32);
  CheckTensor(args.grad_multiplier, "grad_multiplier", DType::kFloat32, {1});
  CheckTensor(args.skip, "skip", DType::kInt32, {1});
  CHECK_GE(args.t, 1);
  OnCuda(ctx) ? cuda::AdamWUpdate(ctx, args) : cpu::AdamWUpdate(ctx, args);
}

int64_t SquaredNormScratchBytes(int64_t size, Device device) {
  return device == Device::kCuda ? cuda::InArena(cuda::SquaredNormScratchBytes(size)) : 0;
}

}  // namespace sepia::kernels
