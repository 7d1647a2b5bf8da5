// A bump allocator over one Buffer that hands out *named* tensors.
//
// The same code path runs twice: with a counting arena (no memory, views with null data) to plan,
// then with a real one of the planned size. Five arenas exist per model: parameters, gradients,
// optimizer, activations, scratch. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/tensor.h"

namespace sepia {

class Arena {
 public:
  struct Record {
    std::string name;
    int64_t offset;
    int64_t num_bytes;
  };

  // A counting arena: Allocate returns shapes without memory and the sizes add up.
  explicit Arena(std::string name);
  // An arena of `num_bytes` on `device`. Debug builds fill it with NaN.
  Arena(std::string name, int64_t num_bytes, Device device = Device::kCpu);

  // Alignment of every record: no two records share a cache line.
  static constexpr int64_t kAlignment = 256;

  // The next record. CHECK-fails when a real arena is full: a plan that was wrong.
  TensorView Allocate(const std::string& name, DType dtype, const Shape& shape);

  // Stack discipline for scratch: everything allocated after Mark() is given back by Release().
  int64_t Mark() const { return used_; }
  void Release(int64_t mark);

  bool counting() const { return counting_; }
  const std::string& name() const { return name_; }
  int64_t capacity() const { return buffer_.size(); }
  int64_t used_bytes() const { return used_; }
  int64_t high_water_bytes() const { return high_water_; }
  // Live records, in order of allocation.
  const std::vector<Record>& records() const { return records_; }

 private:
  std::string name_;
  bool counting_;
  Buffer buffer_;
  int64_t used_ = 0;
  int64_t high_water_ = 0;
  std::vector<Record> records_;
};

// Scratch that is given back at the end of a scope.
class ScratchScope {
 public:
  explicit ScratchScope(Arena& arena) : arena_(arena), mark_(arena.Mark()) {}
  ~ScratchScope() { arena_.Release(mark_); }
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

  TensorView Allocate(const std::string& name, DType dtype, const Shape& shape) {
    return arena_.Allocate(name, dtype, shape);
  }

 private:
  Arena& arena_;
  int64_t mark_;
};

}  // namespace sepia
