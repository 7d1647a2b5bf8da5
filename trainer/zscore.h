// How unusual a value is against the last `window` values: (value - mean) / standard deviation.
// Marks spikes of loss and gradient norm, as llm.c's outlier detector does.
#pragma once

#include <cstddef>
#include <vector>

namespace sepia::trainer {

class ZScore {
 public:
  explicit ZScore(int window);

  // z of `value` against the window, then takes the value in. NaN until the window is full.
  // Non-finite values give NaN and are not taken in.
  double Push(double value);

 private:
  std::vector<double> values_;  // ring
  size_t next_ = 0;
  size_t window_;
};

}  // namespace sepia::trainer
