// Both forms of GeLU in double: transformers activations.py, "gelu" and NeoX's bias_gelu.
#pragma once

#include <cmath>

#include "kernels/gelu.h"

namespace sepia::testing {

inline constexpr double kPi = 3.14159265358979323846;

inline double Gelu(kernels::GeluKind kind, double v) {
  if (kind == kernels::GeluKind::kErf) return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
  return 0.5 * v * (1.0 + std::tanh(std::sqrt(2.0 / kPi) * v * (1.0 + 0.044715 * v * v)));
}

inline double GeluSlope(kernels::GeluKind kind, double v) {
  if (kind == kernels::GeluKind::kErf) {
    const double density = std::exp(-0.5 * v * v) / std::sqrt(2.0 * kPi);
    return 0.5 * std::erfc(-v / std::sqrt(2.0)) + v * density;
  }
  const double root = std::sqrt(2.0 / kPi);
  const double tanh = std::tanh(root * v * (1.0 + 0.044715 * v * v));
  const double inner_slope = root * (1.0 + 3.0 * 0.044715 * v * v);
  return 0.5 * (1.0 + tanh) + 0.5 * v * (1.0 - tanh * tanh) * inner_slope;
}

}  // namespace sepia::testing
