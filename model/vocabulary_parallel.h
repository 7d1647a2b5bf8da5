// Embedding and head when the vocabulary is cut over tensor ranks. Collective over mesh.tensor().
#pragma once

#include <functional>

#include "dist/mesh.h"
#include "kernels/context.h"
#include "kernels/vocabulary_part.h"
#include "kernels/weight.h"
#include "model/residual_rows.h"

namespace sepia::model {

// The part of this rank.
kernels::VocabularyPart VocabularyPartOf(dist::Mesh& mesh);

// own [own_rows, C] = this rank's rows of the embedding of tokens [B, T]; `table` is its part of
// the vocabulary, `memory` room for all rows (residual_rows.h).
void EmbedTokens(kernels::Context& ctx, dist::Mesh& mesh, const ResidualRows& rows,
                 ConstTensorView tokens, ConstTensorView table, TensorView memory, TensorView own);

// kernels::LmHeadLossArgs::gather_statistics.
std::function<void(ConstTensorView own, TensorView all)> GatherOverVocabulary(kernels::Context& ctx,
                                                                              dist::Mesh& mesh);

// logits [M, V] fp32 over the whole vocabulary on every rank, from x [M, C] and this rank's part of
// the weight.
void WholeLogits(kernels::Context& ctx, dist::Mesh& mesh, ConstTensorView x,
                 const kernels::Weight& weight, TensorView logits);

}  // namespace sepia::model
