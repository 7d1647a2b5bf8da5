// Residual sums and casts: one pass, arithmetic in fp32, one rounding.
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

// y = x + partial + bias1 + bias2, summed in that order. Row-parallel biases are added here, once,
// after the tensor-parallel reduction of `partial`.
struct AddBiasResidualArgs {
  ConstTensorView x;        // [M, C] compute dtype
  ConstTensorView partial;  // [M, C]
  ConstTensorView bias1;    // [C]
  ConstTensorView bias2;    // [C] or empty
  TensorView y;             // [M, C]; may be the same memory as x or partial
};
void AddBiasResidualForward(Context& ctx, const AddBiasResidualArgs& args);

// dbias1 and dbias2 (+)= column sums of dy; the gradients of x and partial are dy itself.
struct AddBiasResidualBackwardArgs {
  ConstTensorView dy;  // [M, C] compute dtype
  TensorView dbias1;   // [C] fp32
  TensorView dbias2;   // [C] fp32 or empty
  GradMode grad_mode;
};
void AddBiasResidualBackward(Context& ctx, const AddBiasResidualBackwardArgs& args);

// y = a + b.
struct AddArgs {
  ConstTensorView a;
  ConstTensorView b;
  TensorView y;  // may be the same memory as a or b
};
void Add(Context& ctx, const AddArgs& args);

// Converts between f32, bf16 and f16, rounding to nearest even (base/dtype.h defines the bits).
void Cast(Context& ctx, ConstTensorView from, TensorView to);

// All bytes zero.
void Zero(Context& ctx, TensorView y);

// Scratch of AddBiasResidualBackward.
int64_t ColumnSumScratchBytes(int64_t m, int64_t c, Device device = Device::kCpu);

namespace cpu {  // arguments are checked already
void AddBiasResidualForward(Context& ctx, const AddBiasResidualArgs& args);
void AddBiasResidualBackward(Context& ctx, const AddBiasResidualBackwardArgs& args);
void Add(Context& ctx, const AddArgs& args);
void Cast(Context& ctx, const ConstTensorView& from, const TensorView& to);
void Zero(Context& ctx, const TensorView& y);
int64_t ColumnSumScratchBytes(int64_t m, int64_t c);
}  // namespace cpu

}  // namespace sepia::kernels
