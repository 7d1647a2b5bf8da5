// The cpu backend of kernels/sep_attention.h. Arguments are checked by the caller.
#pragma once

#include "kernels/sep_attention.h"

namespace sepia::kernels::cpu {

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args);
void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args);
int64_t SepAttentionScratchBytes(const SepAttentionShape& shape);

}  // namespace sepia::kernels::cpu
