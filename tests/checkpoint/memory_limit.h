// Runs something in a process that cannot have more than so much memory.
#pragma once

#include <cstdint>
#include <functional>

namespace sepia::checkpoint::testing {

enum class LimitedOutcome : uint8_t {
  kReturned,     // `work` came back
  kOutOfMemory,  // an allocation failed
  kCrashed,      // a signal or another exception
  kUnavailable,  // sanitizers need the address space that the limit would take
};

// `work` runs in a child whose address space may grow by `bytes` at most.
LimitedOutcome RunWithMemoryLimit(int64_t bytes, const std::function<void()>& work);

}  // namespace sepia::checkpoint::testing
