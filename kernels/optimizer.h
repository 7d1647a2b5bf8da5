// AdamW and the reductions around it. Loss scale, norm, clip factor and skip flag are tensors, so
// that a device needs no synchronisation between them.
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"
#include "kernels/optimizer_state.h"

namespace sepia::kernels {

// sum (+)= sum of squares of x in double, over fixed blocks in order: the same bits for any number
// of threads. Non-finite elements make the sum non-finite.
struct SquaredNormArgs {
  ConstTensorView x;  // fp32, any shape
  TensorView sum;     // [1] f64
  GradMode mode;
};
void SquaredNorm(Context& ctx, const SquaredNormArgs& args);

// Scratch of SquaredNorm: partial sums, on a device.
int64_t SquaredNormScratchBytes(int64_t size, Device device = Device::kCpu);

// From the squared norm of the *scaled* gradients: norm = sqrt(sum) / loss_scale;
// c = (norm + 1e-6) / clip; grad_multiplier = 1 / loss_scale / max(1, c); skip = !isfinite(norm).
// clip = 0: no clipping. Source: NeoX / torch clip_grad_norm_.
struct ClipFactorArgs {
  ConstTensorView squared_norm;  // [1] f64
  ConstTensorView loss_scale;    // [1] fp32
  double clip;
  TensorView norm;             // [1] f64: unscaled, before clipping
  TensorView grad_multiplier;  // [1] fp32
  TensorView skip;             // [1] int32: 1 = leave everything as it is
};
void ClipFactor(Context& ctx, const ClipFactorArgs& args);

// One parameter, or any slice of one (all views of the same number of elements), p its master:
//   g = grad * grad_multiplier;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p -= lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)
// then weight = p rounded to the compute dtype. How a dtype holds its master changes no bit of the
// results. Source: Loshchilov & Hutter, decoupled form; DeepSpeed FusedAdam with adam_w_mode.
struct AdamWArgs {
  OptimizerState state;
  ConstTensorView grad;             // fp32
  ConstTensorView grad_multiplier;  // [1] fp32
  ConstTensorView skip;             // [1] int32
  double lr, beta1, beta2, eps, weight_decay;
  int64_t t;  // 1, 2, ...: this update's number
};
void AdamWUpdate(Context& ctx, const AdamWArgs& args);

namespace cpu {  // arguments are checked already
void SquaredNorm(Context& ctx, const SquaredNormArgs& args);
void ClipFactor(Context& ctx, const ClipFactorArgs& args);
void AdamWUpdate(Context& ctx, const AdamWArgs& args);
}  // namespace cpu

}  // namespace sepia::kernels
