// Integer arithmetic that shapes and alignments need. Operands are not negative, divisors positive.
#pragma once

#include <cstdint>

namespace sepia {

inline constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The smallest multiple of `multiple` that is >= a.
inline constexpr int64_t RoundUp(int64_t a, int64_t multiple) {
  return CeilDiv(a, multiple) * multiple;
}

}  // namespace sepia
