// Damages a file in many ways, one at a time, and mends it again.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace sepia::checkpoint::testing {

// Calls `check` with one bit of the file flipped, `count` times, at places spread over all of it.
void ForEachFlippedBit(const std::string& path, int count, const std::function<void()>& check);

// Calls `check` with the file cut to `count` lengths from 0 to one byte less than it has.
void ForEachTruncation(const std::string& path, int count, const std::function<void()>& check);

}  // namespace sepia::checkpoint::testing
