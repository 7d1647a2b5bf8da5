// Matrix products in double, straight from the definition.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace sepia::testing {

// a [m, k] b [k, n], row-major.
inline std::vector<double> Product(const std::vector<double>& a, const std::vector<double>& b,
                                   size_t m, size_t n, size_t k) {
  std::vector<double> c(m * n);
  for (size_t i = 0; i < m; ++i) {
    for (size_t p = 0; p < k; ++p) {
      for (size_t j = 0; j < n; ++j) c[i * n + j] += a[i * k + p] * b[p * n + j];
    }
  }
  return c;
}

// [rows, cols] -> [cols, rows]
inline std::vector<double> Transpose(const std::vector<double>& a, size_t rows, size_t cols) {
  std::vector<double> result(a.size());
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) result[j * rows + i] = a[i * cols + j];
  }
  return result;
}

// Element by element: the magnitude that error bounds of sums are relative to.
inline std::vector<double> Absolute(std::vector<double> values) {
  for (double& value : values) value = std::abs(value);
  return values;
}

// Sums over the rows of [rows, cols].
inline std::vector<double> ColumnSums(const std::vector<double>& a, size_t rows, size_t cols) {
  std::vector<double> sums(cols);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) sums[j] += a[i * cols + j];
  }
  return sums;
}

}  // namespace sepia::testing
