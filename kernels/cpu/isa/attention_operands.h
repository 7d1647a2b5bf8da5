// What the products of Sep-Attention multiply. For the files of this folder only.
//
// Operands are arrays of 4-byte cells, typed float. A cell holds kPair numbers that follow each
// other along the axis which the product sums over, so that a lane multiplies one cell a step.
#pragma once

#if defined(__AVX512BF16__)
#include "kernels/cpu/isa/attention_operands_bf16.h"
#else
#include "kernels/cpu/isa/attention_operands_f32.h"
#endif
