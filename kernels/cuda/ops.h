// The ops of kernels/*.h on the cuda backend, in the order of those headers. Arguments are checked
// already, except that every tensor is on the device. Without the backend, unavailable.cc stands
// in.
#pragma once

#include "kernels/cached_attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/gelu.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/lm_head.h"
#include "kernels/optimizer.h"
#include "kernels/rotary.h"
#include "kernels/sep_attention.h"

namespace sepia::kernels::cuda {

class Stream;

// The stream that all ops are enqueued on.
Stream& MainStream();

void CachedAttention(Context& ctx, const CachedAttentionArgs& args);
void AddBiasResidualForward(Context& ctx, const AddBiasResidualArgs& args);
void AddBiasResidualBackward(Context& ctx, const AddBiasResidualBackwardArgs& args);
void Add(Context& ctx, const AddArgs& args);
void Cast(Context& ctx, const ConstTensorView& from, const TensorView& to);
void Zero(Context& ctx, const TensorView& y);
void EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args);
void EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args);
void BiasGeluForward(Context& ctx, const BiasGeluForwardArgs& args);
void BiasGeluBackward(Context& ctx, const BiasGeluBackwardArgs& args);
void LayerNormForward(Context& ctx, const LayerNormForwardArgs& args);
void LayerNormBackward(Context& ctx, const LayerNormBackwardArgs& args);
void LinearForward(Context& ctx, const LinearForwardArgs& args);
void LinearBackward(Context& ctx, const LinearBackwardArgs& args);
void LmHeadLoss(Context& ctx, const LmHeadLossArgs& args);
void LmHeadLogits(Context& ctx, const LmHeadLogitsArgs& args);
void SquaredNorm(Context& ctx, const SquaredNormArgs& args);
void ClipFactor(Context& ctx, const ClipFactorArgs& args);
void AdamWUpdate(Context& ctx, const AdamWArgs& args);
void RotaryForward(Context& ctx, const RotaryArgs& args);
void RotaryBackward(Context& ctx, const RotaryArgs& args);
void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args);
void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args);
std::string SepAttentionKernelName(DType dtype, int64_t head_dim, bool allow_fallback);
// cuDNN's full attention. Throws UserError(kEnvironment) for what it does not take.
int64_t DnnScratchBytes(const SepAttentionShape& shape);
std::string DnnKernelName(const SepAttentionShape& shape);

}  // namespace sepia::kernels::cuda
