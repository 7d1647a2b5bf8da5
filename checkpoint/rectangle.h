// Axis-aligned parts of a tensor: the coordinates of everything that is stored or asked for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/shape.h"

namespace sepia::checkpoint {

// Elements [offset[d], offset[d] + extent[d]) of every dimension d.
struct Rectangle {
  std::vector<int64_t> offset;
  Shape extent;

  static Rectangle Whole(const Shape& shape);
  int64_t num_elements() const { return extent.num_elements(); }
  bool Inside(const Shape& shape) const;
  bool Overlaps(const Rectangle& other) const;
  std::string ToString() const;  // "[2:4, 0:8]"
};

// The common part; has no elements when there is none. Ranks must agree.
Rectangle Intersect(const Rectangle& a, const Rectangle& b);

// Calls `copy(from, to, count)` for every contiguous run of `part`: element positions inside the
// row-major blocks that hold `source` and `target` (both contain `part`).
void ForEachRun(const Rectangle& part, const Rectangle& source, const Rectangle& target,
                const std::function<void(int64_t from, int64_t to, int64_t count)>& copy);

// Cuts `whole` into contiguous pieces of its row-major order of at most `max_elements` each, in
// that order.
std::vector<Rectangle> SplitContiguously(const Rectangle& whole, int64_t max_elements);

}  // namespace sepia::checkpoint
