#include "trainer/zscore.h"

#include <cmath>
#include <limits>

#include "base/check.h"

namespace sepia::trainer {

ZScore::ZScore(int window) : window_(static_cast<size_t>(window)) { CHECK_GT(window, 1); }

double ZScore::Push(double value) {
  double z = std::numeric_limits<double>::quiet_NaN();
  if (!std::isfinite(value)) return z;
  if (values_.size() < window_) {
    values_.push_back(value);
    return z;
  }
  // Sums over the window in place of running sums: no drift, and a resumed run that pushes the
  // values of metrics.jsonl continues with the same bits.
  const double n = static_cast<double>(window_);
  double mean = 0;
  for (size_t i = 0; i < window_; ++i) mean += values_[(next_ + i) % window_];
  mean /= n;
  double variance = 0;
  for (size_t i = 0; i < window_; ++i) {
    const double difference = values_[(next_ + i) % window_] - mean;
    variance += difference * difference;
  }
  const double deviation = std::sqrt(variance / n);
  z = deviation > 0 ? (value - mean) / deviation : 0;
  values_[next_] = value;
  next_ = (next_ + 1) % window_;
  return z;
}

}  // namespace sepia::trainer
