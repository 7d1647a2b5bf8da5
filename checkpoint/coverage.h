// Do rectangles tile a tensor? The exact test behind every load.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/rectangle.h"

namespace sepia::checkpoint {

// "" when every element of `shape` is in exactly one of `parts`, which all lie inside; otherwise
// the reason. O(n log n) for parts that are stacked along the first dimension, as writers make
// them; more than 2^14 parts are refused, which bounds the work for hostile input.
std::string WhyNotTiled(const Shape& shape, std::vector<const Rectangle*> parts);

}  // namespace sepia::checkpoint
