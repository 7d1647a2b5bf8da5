#include "kernels/cuda/emulation/global_memory.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sepia::kernels::cuda::emulation {
namespace {

// Counts frees, so that remembered ranges are forgotten with the memory.
std::atomic<uint64_t> num_frees{0};

}  // namespace

GlobalMemory& GlobalMemory::Get() {
  static GlobalMemory memory;
  return memory;
}

void* GlobalMemory::Allocate(size_t num_bytes) {
  const size_t rounded = (num_bytes + 255) / 256 * 256;
  void* memory = std::aligned_alloc(256, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0xff, rounded);
  const std::lock_guard lock(mutex_);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  end_of_[begin] = begin + num_bytes;
  return memory;
}

void GlobalMemory::Free(void* memory) {
  {
    const std::lock_guard lock(mutex_);
    end_of_.erase(reinterpret_cast<uintptr_t>(memory));
    num_frees.fetch_add(1);
  }
  std::free(memory);
}

bool GlobalMemory::Contains(const void* address, size_t num_bytes) const {
  thread_local std::array<Range, 8> recent;
  thread_local size_t oldest = 0;
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const uint64_t version = num_frees.load(std::memory_order_relaxed) + 1;
  for (const Range& range : recent) {
    if (range.version == version && range.begin <= begin && begin + num_bytes <= range.end) {
      return true;
    }
  }
  const std::lock_guard lock(mutex_);
  auto next = end_of_.upper_bound(begin);
  if (next == end_of_.begin()) return false;
  --next;
  if (begin + num_bytes > next->second) return false;
  recent[oldest++ % recent.size()] = {next->first, next->second, version};
  return true;
}

}  // namespace sepia::kernels::cuda::emulation
