// The fp32 peak of one core: independent fused multiply-adds on registers.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa/per_isa.h"

SEPIA_PER_ISA(
    // Does `rounds` rounds; returns the number of floating-point operations (an FMA is two).
    // `random`: 48 numbers in [0.5, 1). `sink` takes a result, so that nothing is optimised away.
    int64_t FmaLoop(int64_t rounds, const float* random, float* sink);)
