// Embedding and head when the vocabulary is cut over tensor ranks. Collective over mesh.tensor().
#pragma once

#include <functional>

#include "dist/mesh.h"
#include "kernels/context.h"
#include "kernels/vocabulary_part.h"
#include "kernels/weight.h"

namespace sepia::model {

// The part of this rank.
kernels::VocabularyPart VocabularyPartOf(dist::Mesh& mesh);

// y [B, T, C] = embedding of tokens [B, T]; `table` is this rank's part.
void EmbedTokens(kernels::Context& ctx, dist::Mesh& mesh, ConstTensorView tokens,
                 ConstTensorView table, TensorView y);

// kernels::LmHeadLossArgs::gather_statistics.
std::function<void(ConstTensorView own, TensorView all)> GatherOverVocabulary(kernels::Context& ctx,
                                                                              dist::Mesh& mesh);

// logits [M, V] fp32 over the whole vocabulary on every rank, from x [M, C] and this rank's part of
// the weight.
void WholeLogits(kernels::Context& ctx, dist::Mesh& mesh, ConstTensorView x,
                 const kernels::Weight& weight, TensorView logits);

}  // namespace sepia::model
