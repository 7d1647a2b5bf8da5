// The bf16 peaks of one core: independent products of bf16 on registers and tiles.
//
// Each does `rounds` rounds and returns the number of floating-point operations (a multiply-add is
// two). `random`: 2048 bf16 numbers in [0.5, 1) and (-1, -0.5]. `sink` takes a result.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace sepia::kernels::cpu {

// vdpbf16ps; the machine must have Isa::kAvx512Bf16.
int64_t Dpbf16Loop(int64_t rounds, const BFloat16* random, float* sink);

// tdpbf16ps; the machine must have Isa::kAmx (RunnableIsas asks for it).
int64_t TileLoop(int64_t rounds, const BFloat16* random, float* sink);

}  // namespace sepia::kernels::cpu
