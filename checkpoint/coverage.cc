#include "checkpoint/coverage.h"

#include <algorithm>

#include <fmt/format.h>

namespace sepia::checkpoint {
namespace {

constexpr size_t kMaxParts = 1 << 14;

int64_t FirstBegin(const Rectangle& part) { return part.offset[0]; }
int64_t FirstEnd(const Rectangle& part) { return part.offset[0] + part.extent[0]; }

}  // namespace

std::string WhyNotTiled(const Shape& shape, std::vector<const Rectangle*> parts) {
  if (parts.size() > kMaxParts) return fmt::format("{} chunks are too many", parts.size());
  if (shape.rank() == 0) {
    return parts.size() == 1 ? "" : fmt::format("{} chunks for a scalar", parts.size());
  }
  std::sort(parts.begin(), parts.end(),
            [](const Rectangle* a, const Rectangle* b) { return FirstBegin(*a) < FirstBegin(*b); });
  // Sweep along the first dimension; only parts that still reach this far can overlap.
  int64_t elements = 0;
  std::vector<const Rectangle*> active;
  for (const Rectangle* part : parts) {
    std::erase_if(active,
                  [&](const Rectangle* other) { return FirstEnd(*other) <= FirstBegin(*part); });
    for (const Rectangle* other : active) {
      if (part->Overlaps(*other)) {
        return fmt::format("the chunks {} and {} overlap", other->ToString(), part->ToString());
      }
    }
    active.push_back(part);
    elements += part->num_elements();
  }
  if (elements == shape.num_elements()) return "";
  return fmt::format("chunks hold {} of {} elements", elements, shape.num_elements());
}

}  // namespace sepia::checkpoint
