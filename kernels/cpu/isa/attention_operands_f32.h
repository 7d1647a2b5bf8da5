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
  if (dtype != DType::kFloat32) return WidenRow(dtype, from, count, to);
  const auto* row = static_cast<const float*>(from);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(row + i));
  if (i < count) StoreN(to + i, LoadN(row + i, count - i), count - i);
}
inline void StoreNumbers(Number* to, Vec x) { Store(to, x); }
inline float ToFloat(Number x) { return x; }
// Number `odd` (0 or 1) of every cell.
inline Vec NumbersOf(Vec cells, int64_t /*odd*/) { return cells; }
inline Vec PairCells(Vec, Vec odd) { return odd; }

// Where rows are loaded that end up paired in `paired`: here they are already.
inline float* RowsToPair(float* paired, float* /*scratch*/) { return paired; }
inline void PairRows(const float* /*rows*/, int64_t /*count*/, int64_t /*dim*/, float* /*paired*/) {
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
