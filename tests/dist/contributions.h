// What the ranks of a test bring to a collective, and the sums written out in rank order.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace sepia::testing {

// The values of rank `rank`. Magnitudes differ by rank, so that another order gives other bits.
template <typename T>
std::vector<T> Contribution(int rank, int64_t count) {
  std::vector<T> values;
  values.reserve(static_cast<size_t>(count));
  const float scale = std::ldexp(1.0f, 5 * rank % 12 - 20);
  auto bits = static_cast<uint32_t>(2654435761u * static_cast<uint32_t>(rank + 1));
  for (int64_t i = 0; i < count; ++i) {
    bits = 1664525u * bits + 1013904223u;  // Numerical Recipes' generator
    const auto fraction = static_cast<float>(static_cast<int32_t>(bits >> 8) - (1 << 23));
    values.push_back(static_cast<T>(fraction * scale));
  }
  return values;
}

// Left to right; half precision in fp32 (Wide) and rounded once.
template <typename T, typename Wide>
std::vector<T> SumInRankOrder(int ranks, int64_t count) {
  std::vector<Wide> sum;
  for (const T value : Contribution<T>(0, count)) sum.push_back(static_cast<Wide>(value));
  for (int r = 1; r < ranks; ++r) {
    const std::vector<T> values = Contribution<T>(r, count);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<Wide>(values[i]);
  }
  std::vector<T> rounded;
  for (const Wide value : sum) rounded.push_back(static_cast<T>(value));
  return rounded;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace sepia::testing
