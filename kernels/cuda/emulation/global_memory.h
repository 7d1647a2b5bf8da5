// What is allocated on the emulated device: every access of a kernel must lie in one allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace sepia::kernels::cuda::emulation {

class GlobalMemory {
 public:
  static GlobalMemory& Get();

  // 256-byte aligned, filled with NaN patterns.
  void* Allocate(size_t num_bytes);
  void Free(void* memory);
  // Whether [address, address + num_bytes) lies in one live allocation.
  bool Contains(const void* address, size_t num_bytes) const;

 private:
  struct Range {
    uintptr_t begin = 0, end = 0;
    uint64_t version = 0;
  };

  mutable std::mutex mutex_;
  std::map<uintptr_t, uintptr_t> end_of_;
};

}  // namespace sepia::kernels::cuda::emulation
