#include "kernels/lm_head.h"

#include "kernels/check_args.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {
namespace {

void CheckOperands(const Context& ctx, const ConstTensorView& x, const Weight& weight) {
  CheckDevice(ctx);
  CheckMatrix(x, "x");
  CheckMatrix(weight.canonical, "weight");
  CheckComputeDType(x.dtype(), "x");
  CheckTensor(weight.canonical, "weight", x.dtype(), {weight.canonical.dim(0), x.dim(1)});
}

void CheckTargets(const ConstTensorView& targets, int64_t vocab_size) {
  if (targets.device() != Device::kCpu) return;
  for (const int32_t target : targets.span<int32_t>()) {
    CHECK(target >= 0 && target < vocab_size, "target {} of a vocabulary of {}", target,
          vocab_size);
  }
}

}  // namespace

void LmHeadLoss(Context& ctx, const LmHeadLossArgs& args) {
  CheckOperands(ctx, args.x, args.weight);
  const int64_t m = args.x.dim(0);
  CheckTensor(args.targets, "targets", DType::kInt32, {m});
  CheckTargets(args.targets, args.vocabulary.vocab_size(args.weight.canonical.dim(0)));
  CHECK(args.vocabulary.num_parts == 1 || args.gather_statistics,
        "a part of the vocabulary needs gather_statistics");
  CheckOptional(args.loss_mask, "loss_mask", DType::kUInt8, {m});
  CheckTensor(args.loss_sum, "loss_sum", DType::kFloat64, {1});
  const bool with_gradients = !args.dx.empty();
  CHECK(args.dweight.empty() != with_gradients && args.grad_scale.empty() != with_gradients,
        "grad_scale, dx and dweight are given together or not at all");
  if (with_gradients) {
    CheckTensor(args.grad_scale, "grad_scale", DType::kFloat32, {1});
    CheckTensor(args.dx, "dx", args.x.dtype(), args.x.shape());
    CheckTensor(args.dweight, "dweight", DType::kFloat32, args.weight.canonical.shape());
  }
  OnCuda(ctx) ? cuda::LmHeadLoss(ctx, args) : cpu::LmHeadLoss(ctx, args);
}

void LmHeadLogits(Context& ctx, const LmHeadLogitsArgs& args) {
  CheckOperands(ctx, args.x, args.weight);
  CheckTensor(args.logits, "logits", DType::kFloat32,
              {args.x.dim(0), args.weight.canonical.dim(0)});
  OnCuda(ctx) ? cuda::LmHeadLogits(ctx, args) : cpu::LmHeadLogits(ctx, args);
}

int64_t LmHeadScratchBytes(int64_t m, int64_t c, int64_t v, DType dtype, int num_threads,
                           int num_parts, Device device) {
  return device == Device::kCuda ? cuda::LmHeadScratchBytes(m, c, v, num_parts)
                                 : cpu::LmHeadScratchBytes(m, c, v, dtype, num_threads, num_parts);
}

}  // namespace sepia::kernels
