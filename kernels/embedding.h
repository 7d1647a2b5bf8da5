// Rows of the embedding matrix. Source: torch.nn.Embedding; NeoX word_embeddings.
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

struct EmbeddingForwardArgs {
  ConstTensorView tokens;  // [B, T] int32, each in [0, V)
  ConstTensorView table;   // [V, C] compute dtype
  TensorView y;            // [B, T, C] compute dtype
};
void EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args);

// dtable[token] += sum of dy over that token's places, in order of place; rows of absent tokens are
// zero (kOverwrite) or untouched (kAccumulate). No atomics.
struct EmbeddingBackwardArgs {
  ConstTensorView tokens;  // [B, T] int32
  ConstTensorView dy;      // [B, T, C] compute dtype
  TensorView dtable;       // [V, C] fp32
  GradMode grad_mode;
};
void EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args);

namespace cpu {  // arguments are checked already
void EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args);
void EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args);
}  // namespace cpu

}  // namespace sepia::kernels
