// How group_communicator.cc cuts data into messages.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sepia::dist {

// Up to this size an all-reduce sends everything to everybody: one round of messages is faster than
// less data in two.
inline constexpr int64_t kSmallAllReduceBytes = 2048;

// Data of one rank that is in flight to one other at a time, which bounds the staging memory.
inline constexpr int64_t kSegmentBytes = int64_t{1} << 20;

// Memory in which a group's reductions receive, when no rank combines more than `slice_bytes`.
constexpr int64_t StagingBytes(int64_t slice_bytes, int64_t ranks) {
  return ranks == 1 ? 0 : ranks * std::min(slice_bytes, kSegmentBytes);
}

}  // namespace sepia::dist
