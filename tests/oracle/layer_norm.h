// LayerNorm of one row in double; gradients from the textbook formula, checked against central
// differences of the forward in layer_norm_test.cc.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace sepia::testing {

struct LayerNormRow {
  double mean;
  double rstd;
  std::vector<double> xhat;
  std::vector<double> y;
};

inline LayerNormRow LayerNorm(const std::vector<double>& x, const std::vector<double>& gamma,
                              const std::vector<double>& beta, double eps) {
  const auto c = static_cast<double>(x.size());
  LayerNormRow row{};
  for (const double value : x) row.mean += value / c;
  double variance = 0.0;
  for (const double value : x) variance += (value - row.mean) * (value - row.mean) / c;
  row.rstd = 1.0 / std::sqrt(variance + eps);
  for (size_t i = 0; i < x.size(); ++i) {
    row.xhat.push_back((x[i] - row.mean) * row.rstd);
    row.y.push_back(row.xhat[i] * gamma[i] + beta[i]);
  }
  return row;
}

// Gradient of sum(dy y) with respect to x.
inline std::vector<double> LayerNormGradient(const LayerNormRow& row,
                                             const std::vector<double>& gamma,
                                             const std::vector<double>& dy) {
  const auto c = static_cast<double>(dy.size());
  double mean_g = 0.0;
  double mean_gx = 0.0;
  for (size_t i = 0; i < dy.size(); ++i) {
    mean_g += dy[i] * gamma[i] / c;
    mean_gx += dy[i] * gamma[i] * row.xhat[i] / c;
  }
  std::vector<double> dx(dy.size());
  for (size_t i = 0; i < dy.size(); ++i) {
    dx[i] = row.rstd * (dy[i] * gamma[i] - mean_g - row.xhat[i] * mean_gx);
  }
  return dx;
}

}  // namespace sepia::testing
