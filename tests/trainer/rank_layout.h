// A grid of ranks, for tests.
#pragma once

#include <string>

#include <fmt/format.h>

namespace sepia::trainer {

struct Layout {
  int tensor = 1, data = 1, zero = 0;
  int ranks() const { return tensor * data; }
  std::string Name() const { return fmt::format("{}x{} zero {}", tensor, data, zero); }
};

}  // namespace sepia::trainer
