// Matrix products of bf16 on tile registers (AMX): Sepia's own, about twice as fast as oneDNN 2.6's
// calls tile by tile (docs/performance/step.md).
//
// Both operands are packed into the order in which tiles are loaded (gemm_panels.h): the right
// one once, in slabs that all threads share; the left one panel by panel, by the task that uses it.
#pragma once

#include <cstdint>

#include "kernels/cpu/amx/gemm_panels.h"
#include "kernels/cpu/gemm.h"

namespace sepia::kernels::cpu::amx {

// The tile code of this machine; null: no tiles, or SEPIA_MAX_ISA forbids them.
const GemmCode* ActiveGemmCode();

// As cpu::Gemm, for bf16 operands, c of bf16 or f32, and m, n, k >= 1.
void Gemm(Context& ctx, const GemmArgs& args, const GemmCode& code);

int64_t GemmScratchBytes(int64_t m, int64_t n, int64_t k, int num_threads);

}  // namespace sepia::kernels::cpu::amx
