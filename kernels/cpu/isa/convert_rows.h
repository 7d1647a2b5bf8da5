// Contiguous elements of a compute dtype (f32, bf16, f16) as fp32 and back.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/isa/per_isa.h"

SEPIA_PER_ISA(
    // Exact.
    void WidenRow(DType dtype, const void* from, int64_t count, float* to);
    // Rounds to nearest even (base/dtype.h).
    void NarrowRow(DType dtype, const float* from, int64_t count, void* to);)
