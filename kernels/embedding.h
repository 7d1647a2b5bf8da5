// Rows of the embedding matrix. Source: torch.nn.Embedding; NeoX word_embeddings.
//
// A table may hold a part of the vocabulary: tokens of other parts then give rows of zeros, so that
// the parts' results add up, and no gradient. V below is the number of rows of the part.
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"
#include "kernels/vocabulary_part.h"

namespace sepia::kernels {

struct EmbeddingForwardArgs {
  // [B, T] int32, each in [0, vocabulary size); on a device nobody checks that again.
  ConstTensorView tokens;
  ConstTensorView table;  // [V, C] compute dtype
  TensorView y;           // [B, T, C] compute dtype
  VocabularyPart vocabulary = {};
};
void EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args);

// dtable[token] += sum of dy over that token's places, in order of place; rows of absent tokens are
// zero (kOverwrite) or untouched (kAccumulate). No atomics.
struct EmbeddingBackwardArgs {
  ConstTensorView tokens;  // [B, T] int32
  ConstTensorView dy;      // [B, T, C] compute dtype
  TensorView dtable;       // [V, C] fp32
  GradMode grad_mode;
  VocabularyPart vocabulary = {};
};
void EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args);

// Scratch of EmbeddingBackward for B T tokens and a table of `rows` rows: the places in order of
// their tokens.
int64_t EmbeddingScratchBytes(int64_t num_tokens, int64_t rows, Device device = Device::kCpu);

namespace cpu {  // arguments are checked already
void EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args);
void EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args);
int64_t EmbeddingScratchBytes(int64_t num_tokens, int64_t rows);
}  // namespace cpu

}  // namespace sepia::kernels
