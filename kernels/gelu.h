// y = gelu(x + bias), both published forms, arithmetic in fp32.
//   kTanh: 0.5 v (1 + tanh(sqrt(2/pi) v (1 + 0.044715 v^2)))   (NeoX activations.py bias_gelu)
//   kErf:  0.5 v (1 + erf(v / sqrt(2)))                         (transformers "gelu")
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

enum class GeluKind : uint8_t { kTanh, kErf };

struct BiasGeluForwardArgs {
  ConstTensorView x;     // [M, F] compute dtype, before the bias; saved for backward
  ConstTensorView bias;  // [F] compute dtype
  TensorView y;          // [M, F] compute dtype; must not alias x
  GeluKind kind;
};
void BiasGeluForward(Context& ctx, const BiasGeluForwardArgs& args);

// dx = dy * gelu'(x + bias); dbias (+)= column sums of the unrounded dx. The forward's result comes
// along for next to nothing, so that nobody needs to save it.
struct BiasGeluBackwardArgs {
  ConstTensorView x;     // [M, F]
  ConstTensorView bias;  // [F]
  ConstTensorView dy;    // [M, F]
  TensorView dx;         // [M, F]; may be the same memory as dy
  TensorView dbias;      // [F] fp32
  TensorView y = {};     // [M, F], or empty: as forward's, bit for bit; may be the memory of x
  GeluKind kind;
  GradMode grad_mode;  // of dbias
};
void BiasGeluBackward(Context& ctx, const BiasGeluBackwardArgs& args);

int64_t BiasGeluScratchBytes(int64_t m, int64_t f, Device device = Device::kCpu);

namespace cpu {  // arguments are checked already
void BiasGeluForward(Context& ctx, const BiasGeluForwardArgs& args);
void BiasGeluBackward(Context& ctx, const BiasGeluBackwardArgs& args);
int64_t BiasGeluScratchBytes(int64_t m, int64_t f);
}  // namespace cpu

}  // namespace sepia::kernels
