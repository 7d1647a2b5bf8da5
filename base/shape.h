// Dimensions of a contiguous, row-major tensor: at most five, each >= 0, int64.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include <fmt/format.h>

#include "base/check.h"

namespace sepia {

class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const {
    CHECK(i >= 0 && i < rank_, "dimension {} of a rank-{} shape", i, rank_);
    return dims_[static_cast<size_t>(i)];
  }
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }

  // Product of the dimensions; 1 for rank 0. The constructor refused products past 2^62.
  int64_t num_elements() const { return num_elements_; }

  // "[2, 3]"
  std::string ToString() const;

  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && a.dims_ == b.dims_;
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
  int64_t num_elements_ = 1;
};

}  // namespace sepia

template <>
struct fmt::formatter<sepia::Shape> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(const sepia::Shape& shape, Context& context) const {
    return fmt::formatter<std::string_view>::format(shape.ToString(), context);
  }
};
