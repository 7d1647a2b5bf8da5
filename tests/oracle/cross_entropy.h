// Softmax cross-entropy of one row of logits, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace sepia::testing {

inline double LogSumExp(const std::vector<double>& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const double logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

inline double CrossEntropy(const std::vector<double>& logits, size_t target) {
  return LogSumExp(logits) - logits[target];
}

// softmax(logits) - one_hot(target)
inline std::vector<double> CrossEntropyGradient(const std::vector<double>& logits, size_t target) {
  const double lse = LogSumExp(logits);
  std::vector<double> gradient;
  for (const double logit : logits) gradient.push_back(std::exp(logit - lse));
  gradient[target] -= 1.0;
  return gradient;
}

}  // namespace sepia::testing
