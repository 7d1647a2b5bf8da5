// The LM head and the loss as one chunked op: logits of a whole batch never exist in memory.
//
// logits = x W^T (no bias); loss_r = logsumexp(logits_r) - logits_r[target_r], fp32, over all V
// (padded) columns. Masked targets contribute neither loss nor gradient.
//
// The weight may hold a part of the vocabulary. V below is the number of rows of the part, and dx
// is then a partial sum: the ranks' dx add up to the gradient. The loss is whole on every rank.
#pragma once

#include <algorithm>
#include <functional>

#include "base/integer.h"
#include "base/tensor.h"
#include "kernels/context.h"
#include "kernels/vocabulary_part.h"
#include "kernels/weight.h"

namespace sepia::kernels {

// Loss only, or loss and both gradients in one pass over each chunk.
struct LmHeadLossArgs {
  ConstTensorView x;          // [M, C] compute dtype
  const Weight& weight;       // [V, C]
  ConstTensorView targets;    // [M] int32, each in [0, vocabulary size)
  ConstTensorView loss_mask;  // [M] uint8 or empty: all count
  TensorView loss_sum;        // [1] f64: sum over unmasked targets
  GradMode loss_mode;         // of loss_sum
  // Gradients of (grad_scale * loss_sum); all three empty for loss only.
  ConstTensorView grad_scale;  // [1] fp32: loss scale / number of targets in the global batch
  TensorView dx;               // [M, C] compute dtype, overwritten
  TensorView dweight;          // [V, C] fp32
  GradMode grad_mode = GradMode::kOverwrite;  // of dweight
  VocabularyPart vocabulary = {};
  // For a part: all[p] = what part p has as `own`, [rows, 3] f64 (largest logit, sum of
  // exponentials above it, logit of the target). Called once a chunk of rows, by all parts.
  std::function<void(ConstTensorView own, TensorView all)> gather_statistics = nullptr;
};
void LmHeadLoss(Context& ctx, const LmHeadLossArgs& args);

// Plain logits, for probe and generation: y [M, V] fp32.
struct LmHeadLogitsArgs {
  ConstTensorView x;     // [M, C] compute dtype
  const Weight& weight;  // [V, C]
  TensorView logits;     // [M, V] fp32, not rounded to the compute dtype
};
void LmHeadLogits(Context& ctx, const LmHeadLogitsArgs& args);

int64_t LmHeadScratchBytes(int64_t m, int64_t c, int64_t v, DType dtype, int num_threads,
                           int num_parts = 1, Device device = Device::kCpu);

// Rows whose logits exist at one time, by the shape alone: nearly equal chunks of about C rows, so
// that the logits take as much memory as dW. Each chunk reads W twice and dW once, and writes dW:
// fewer rows cost traffic.
inline int64_t LmHeadChunkRows(int64_t m, int64_t c) {
  const int64_t most = std::max<int64_t>(c, 256);
  const int64_t num_chunks = std::max<int64_t>(CeilDiv(m, most), 1);
  return std::min(m, RoundUp(CeilDiv(m, num_chunks), 32));
}

namespace cpu {  // arguments are checked already
void LmHeadLoss(Context& ctx, const LmHeadLossArgs& args);
void LmHeadLogits(Context& ctx, const LmHeadLogitsArgs& args);
int64_t LmHeadScratchBytes(int64_t m, int64_t c, int64_t v, DType dtype, int num_threads,
                           int num_parts);
}  // namespace cpu

}  // namespace sepia::kernels
