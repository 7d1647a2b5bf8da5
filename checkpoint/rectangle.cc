#include "checkpoint/rectangle.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"

namespace sepia::checkpoint {
namespace {

// Position of the global element `index` inside the row-major block that holds `block`.
int64_t PositionIn(const Rectangle& block, std::span<const int64_t> index) {
  int64_t position = 0;
  for (int d = 0; d < block.extent.rank(); ++d) {
    const auto i = static_cast<size_t>(d);
    position = position * block.extent[d] + (index[i] - block.offset[i]);
  }
  return position;
}

// Number of trailing dimensions in which `part` spans all of `block`.
int SpannedDims(const Rectangle& part, const Rectangle& block) {
  int spanned = 0;
  const int rank = part.extent.rank();
  while (spanned < rank && part.extent[rank - 1 - spanned] == block.extent[rank - 1 - spanned]) {
    ++spanned;
  }
  return spanned;
}

// The next index of the dimensions [0, dims) of `part`; false after the last.
bool Advance(const Rectangle& part, int dims, std::vector<int64_t>* index) {
  for (int d = dims - 1; d >= 0; --d) {
    const auto i = static_cast<size_t>(d);
    if (++(*index)[i] < part.offset[i] + part.extent[d]) return true;
    (*index)[i] = part.offset[i];
  }
  return false;
}

}  // namespace

Rectangle Rectangle::Whole(const Shape& shape) {
  return {std::vector<int64_t>(static_cast<size_t>(shape.rank()), 0), shape};
}

bool Rectangle::Inside(const Shape& shape) const {
  if (extent.rank() != shape.rank() || offset.size() != static_cast<size_t>(shape.rank())) {
    return false;
  }
  for (int d = 0; d < shape.rank(); ++d) {
    const int64_t begin = offset[static_cast<size_t>(d)];
    if (begin < 0 || begin > shape[d] || extent[d] > shape[d] - begin) return false;
  }
  return true;
}

bool Rectangle::Overlaps(const Rectangle& other) const {
  return Intersect(*this, other).num_elements() > 0;
}

std::string Rectangle::ToString() const {
  std::string text = "[";
  for (int d = 0; d < extent.rank(); ++d) {
    const int64_t begin = offset[static_cast<size_t>(d)];
    text += fmt::format("{}{}:{}", d == 0 ? "" : ", ", begin, begin + extent[d]);
  }
  return text + "]";
}

Rectangle Intersect(const Rectangle& a, const Rectangle& b) {
  CHECK_EQ(a.extent.rank(), b.extent.rank());
  Rectangle common;
  std::vector<int64_t> extent;
  for (int d = 0; d < a.extent.rank(); ++d) {
    const auto i = static_cast<size_t>(d);
    const int64_t begin = std::max(a.offset[i], b.offset[i]);
    const int64_t end = std::min(a.offset[i] + a.extent[d], b.offset[i] + b.extent[d]);
    common.offset.push_back(begin);
    extent.push_back(std::max<int64_t>(end - begin, 0));
  }
  common.extent = Shape(std::span<const int64_t>(extent));
  return common;
}

void ForEachRun(const Rectangle& part, const Rectangle& source, const Rectangle& target,
                const std::function<void(int64_t, int64_t, int64_t)>& copy) {
  if (part.num_elements() == 0) return;
  // A run covers the dimensions that both blocks have in full, and the one before them.
  const int rank = part.extent.rank();
  const int spanned = std::min(SpannedDims(part, source), SpannedDims(part, target));
  const int outer = std::max(rank - spanned - 1, 0);
  int64_t run = 1;
  for (int d = outer; d < rank; ++d) run *= part.extent[d];
  std::vector<int64_t> index = part.offset;
  do {
    copy(PositionIn(source, index), PositionIn(target, index), run);
  } while (Advance(part, outer, &index));
}

std::vector<Rectangle> SplitContiguously(const Rectangle& whole, int64_t max_elements) {
  CHECK(max_elements > 0);
  std::vector<Rectangle> pieces;
  if (whole.num_elements() == 0) return pieces;
  // `cut` is the first dimension whose single steps fit; pieces take ranges of it.
  const int rank = whole.extent.rank();
  int cut = 0;
  int64_t step = whole.num_elements();
  while (cut < rank && (step /= whole.extent[cut]) > max_elements) ++cut;
  if (cut == rank) return {whole};  // rank 0
  const int64_t most = std::max<int64_t>(max_elements / step, 1);
  std::vector<int64_t> index = whole.offset;
  do {
    for (int64_t begin = 0; begin < whole.extent[cut]; begin += most) {
      std::vector<int64_t> extent(whole.extent.dims().begin(), whole.extent.dims().end());
      std::fill_n(extent.begin(), cut, 1);
      extent[static_cast<size_t>(cut)] = std::min(most, whole.extent[cut] - begin);
      Rectangle piece{index, Shape(std::span<const int64_t>(extent))};
      piece.offset[static_cast<size_t>(cut)] += begin;
      pieces.push_back(std::move(piece));
    }
  } while (Advance(whole, cut, &index));
  return pieces;
}

}  // namespace sepia::checkpoint
