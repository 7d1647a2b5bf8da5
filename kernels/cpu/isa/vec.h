// One vector of fp32 lanes, 16 (avx512) or 8 (avx2), for the files of this folder only.
//
// Loads widen bf16 and f16 exactly; stores round as base/dtype.h defines (to nearest even, NaN
// stays NaN, overflow to infinity). LoadN and StoreN touch the first `count` elements only; the
// other lanes load as zero. The same operations in the same order give the same bits on both
// instruction sets, except for Sum, whose order follows the number of lanes, and Exp2.
// Exp2(x) is 2^x within a relative error of 1.7e-7 (3 units of 2^-24): 0 below 2^-125.5, infinity
// from 2^128, NaN for NaN.
#pragma once

#if defined(__AVX512F__)
#include "kernels/cpu/isa/vec_avx512.h"
#else
#include "kernels/cpu/isa/vec_avx2.h"
#endif

namespace sepia::kernels::cpu::SEPIA_ISA {

inline Vec operator-(Vec a) { return Zero() - a; }

// 2^f for |f| <= 1/2: minimax polynomial of degree 6, relative error 3e-9 before rounding.
inline Vec Exp2Fraction(Vec f) {
  Vec p = Set(1.55946775e-4f);
  p = Fma(p, f, Set(1.34066439e-3f));
  p = Fma(p, f, Set(9.61769297e-3f));
  p = Fma(p, f, Set(5.55031055e-2f));
  p = Fma(p, f, Set(2.40226528e-1f));
  p = Fma(p, f, Set(6.93147215e-1f));
  return Fma(p, f, Set(1.0f));
}

// e^x within 2 ulp; 0 below e^-87, infinity above e^88.72, NaN for NaN.
inline Vec Exp(Vec x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693145752f;  // few bits: n * kLn2High is exact
  constexpr float kLn2Low = 1.42860677e-6f;
  const Vec n = Round(x * Set(kLog2E));
  const Vec r = Fnma(n, Set(kLn2Low), Fnma(n, Set(kLn2High), x));
  const Vec y = ScaleByPowerOf2(Exp2Fraction(r * Set(kLog2E)), n);
  constexpr float kLargest = 0x1.62e42ep+6f;  // e^kLargest is finite, that of its successor is not
  const Vec bounded = Select(Set(kLargest) < x, Set(__builtin_inff()), y);
  return Select(x < Set(-87.0f), Zero(), bounded);
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
