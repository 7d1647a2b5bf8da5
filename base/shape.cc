#include "base/shape.h"

namespace sepia {

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  CHECK_LE(dims.size(), static_cast<size_t>(kMaxRank));
  for (size_t i = 0; i < dims.size(); ++i) {
    CHECK_GE(dims[i], 0);
    dims_[i] = dims[i];
    CHECK(dims[i] == 0 || num_elements_ <= (int64_t{1} << 62) / dims[i],
          "shape is too large to address");
    num_elements_ *= dims[i];
  }
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims_[static_cast<size_t>(i)]);
  }
  return text + "]";
}

}  // namespace sepia
