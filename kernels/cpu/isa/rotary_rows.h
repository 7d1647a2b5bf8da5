// Rotary embedding of the queries and keys of one token (formula: kernels/rotary.h).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/isa/per_isa.h"

namespace sepia::kernels::cpu {

// In place: q, k, v of every head, head_dim elements of `dtype` each; v stays.
struct RotaryRow {
  DType dtype;
  int64_t num_heads;
  int64_t head_dim;
  int64_t half;  // of the rotated dimensions
  void* qkv;
  const float* cos;  // [half]
  const float* sin;
  float sign;  // -1 turns back
};

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(void Rotate(const RotaryRow& row);)
