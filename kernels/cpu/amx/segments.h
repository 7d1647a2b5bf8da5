// The entry points of forward.cc, backward.cc and reduce.cc.
#pragma once

#include "kernels/cpu/amx/task.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

void ForwardSegment(const ForwardTask& task);
void BackwardSegment(const BackwardTask& task);
void ReduceKeyGradients(const ReduceTask& task);
int64_t ForwardBytes(int64_t seq_length, int64_t head_dim);
int64_t BackwardBytes(int64_t seq_length, int64_t head_dim);

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
