// Sep-Attention in bf16 on tiles, for kernels/cpu/sep_attention.cc. Arguments are checked.
#pragma once

#include "kernels/cpu/amx/task.h"
#include "kernels/sep_attention.h"

namespace sepia::kernels::cpu::amx {

// Whether the running machine computes `dtype` here.
bool Serves(DType dtype);

// The tile code that Serves() speaks of; another one for tests.
const TileCode& ActiveTileCode();

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args, const TileCode& code);
void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args, const TileCode& code);
int64_t SepAttentionScratchBytes(const SepAttentionShape& shape, const TileCode& code);

}  // namespace sepia::kernels::cpu::amx
