#include <map>
#include <mutex>
#include <set>

#include "kernels/cuda/graph.h"

namespace sepia::kernels::cuda {
namespace {

struct Allocations {
  std::mutex mutex;
  uint64_t count = 0;
  std::map<const void*, uint64_t> number_of;  // live ones, from 1 in order of allocation
  std::set<MemoryWatch*> watches;
};
// Never destroyed: memory may be freed when the process ends.
Allocations& All() {
  static auto* const allocations = new Allocations;
  return *allocations;
}

}  // namespace

MemoryWatch::MemoryWatch() {
  const std::lock_guard lock(All().mutex);
  newest_ = All().count;
  All().watches.insert(this);
}

MemoryWatch::~MemoryWatch() {
  const std::lock_guard lock(All().mutex);
  All().watches.erase(this);
}

void NoteAllocation(const void* memory) {
  const std::lock_guard lock(All().mutex);
  All().number_of[memory] = ++All().count;
}

void NoteFree(const void* memory) {
  const std::lock_guard lock(All().mutex);
  const auto found = All().number_of.find(memory);
  if (found == All().number_of.end()) return;
  for (MemoryWatch* watch : All().watches) {
    if (found->second <= watch->newest_) watch->intact_ = false;
  }
  All().number_of.erase(found);
}

uint64_t NumAllocations() {
  const std::lock_guard lock(All().mutex);
  return All().count;
}

}  // namespace sepia::kernels::cuda
