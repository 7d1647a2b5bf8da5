// The cpu backend of kernels/sep_attention.h. Arguments are checked by the caller.
#pragma once

#include "kernels/sep_attention.h"

namespace sepia::kernels::cpu {

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args);
void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args);
int64_t SepAttentionScratchBytes(const SepAttentionShape& shape);

// Whether heads of `dtype` go through vdpbf16ps: P and dS are rounded to bf16 then. Only where that
// is the best level; where there are tiles, it loses to fp32.
bool MultipliesPairs(DType dtype);

}  // namespace sepia::kernels::cpu
