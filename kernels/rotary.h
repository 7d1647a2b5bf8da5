// Rotary position embedding on the first `rotary_dim` dimensions of q and k, half-split pairs
// (j, j + rotary_dim / 2), angle = position * base^(-2j / rotary_dim). Position = index in the
// sample; no reset at document ends. Source: NeoX v1.0 positional_embeddings.py; transformers
// modeling_gpt_neox.py.
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

enum class RotaryTables : uint8_t {
  kFp32,      // angles in fp32: transformers, NeoX 2.x, SepLLM
  kNeoxFp16,  // fp16(position) * fp16(inv_freq) in fp16, sin and cos of that, in fp16: what Pythia trained with
};

// Fills cos and sin, each [T, rotary_dim / 2] fp32.
void BuildRotaryTables(RotaryTables kind, double base, TensorView cos, TensorView sin);

// In place. qkv [B, T, H, 3, D] compute dtype; v is untouched. Arithmetic in fp32, one rounding.
struct RotaryArgs {
  TensorView qkv;       // [B, T, H, 3, D]
  ConstTensorView cos;  // [>= T, rotary_dim / 2] fp32
  ConstTensorView sin;
};
void RotaryForward(Context& ctx, const RotaryArgs& args);
// Rotates by the opposite angle: turns gradients of rotated q, k into gradients of the inputs.
void RotaryBackward(Context& ctx, const RotaryArgs& args);

namespace cpu {  // arguments are checked already
void RotaryForward(Context& ctx, const RotaryArgs& args);
void RotaryBackward(Context& ctx, const RotaryArgs& args);
}  // namespace cpu

}  // namespace sepia::kernels
