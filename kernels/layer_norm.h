// y = (x - mean) * rstd * gamma + beta over the last dimension; rstd = 1 / sqrt(var + eps), biased
// variance. Statistics and arithmetic in fp32. Source: Ba et al. 2016; torch.nn.LayerNorm.
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

struct LayerNormForwardArgs {
  ConstTensorView x;      // [M, C] compute dtype
  ConstTensorView gamma;  // [C] compute dtype
  ConstTensorView beta;   // [C] compute dtype
  TensorView y;           // [M, C] compute dtype
  TensorView mean;        // [M] fp32, saved for backward
  TensorView rstd;        // [M] fp32, saved for backward
  float eps;
};
void LayerNormForward(Context& ctx, const LayerNormForwardArgs& args);

struct LayerNormBackwardArgs {
  ConstTensorView x;                        // [M, C]
  ConstTensorView gamma;                    // [C]
  ConstTensorView mean;                     // [M] fp32
  ConstTensorView rstd;                     // [M] fp32
  ConstTensorView dy;                       // [M, C] compute dtype
  TensorView dx;                            // [M, C] compute dtype
  TensorView dgamma;                        // [C] fp32
  TensorView dbeta;                         // [C] fp32
  GradMode dx_mode = GradMode::kOverwrite;  // kAccumulate: one rounding of dx + this gradient
  GradMode grad_mode;                       // of dgamma and dbeta
};
void LayerNormBackward(Context& ctx, const LayerNormBackwardArgs& args);

// Scratch of LayerNormBackward: partial sums over fixed blocks of rows.
int64_t LayerNormScratchBytes(int64_t m, int64_t c, Device device = Device::kCpu);

namespace cpu {  // arguments are checked already
void LayerNormForward(Context& ctx, const LayerNormForwardArgs& args);
void LayerNormBackward(Context& ctx, const LayerNormBackwardArgs& args);
int64_t LayerNormScratchBytes(int64_t m, int64_t c);
}  // namespace cpu

}  // namespace sepia::kernels
