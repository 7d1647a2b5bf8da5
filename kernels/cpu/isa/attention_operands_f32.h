// Operands of one fp32 number a cell. Included through attention_operands.h only.
#pragma once

#include "kernels/cpu/isa/convert_rows.h"
#include "kernels/cpu/isa/tile_product.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

inline constexpr int kPair = 1;
using Number = float;
using Multiply = FusedMultiplyAdd;

// `count` elements as numbers.
inline void LoadNumbers(DType dtype, const void* from, int64_t count, Number* to) {
  WidenRow(dtype, from, count, to);
}
inline void StoreNumbers(Number* to, Vec x) { Store(to, x); }
inline Vec PairCells(Vec, Vec odd) { return odd; }

// Where rows are loaded that end up paired in `paired`: here they are already.
inline float* RowsToPair(float* paired, float* /*scratch*/) { return paired; }
inline void PairRows(const float* /*rows*/, int64_t /*count*/, int64_t /*dim*/, float* /*paired*/) {
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
