// Copies from the host that do not wait for the stream: through pinned memory that is used in
// turns.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

class UploadRing {
 public:
  // One stream at a time; not thread-safe.
  explicit UploadRing(size_t slot_bytes = size_t{1} << 20, int num_slots = 8);

  // Enqueues the copy and returns when `from` may be reused: at once, unless more than the ring
  // holds is under way.
  void Copy(Stream& stream, void* to, const void* from, size_t num_bytes);

 private:
  struct Slot {
    explicit Slot(size_t num_bytes) : memory(num_bytes) {}
    PinnedMemory memory;
    Event copied;
  };

  size_t slot_bytes_;
  std::vector<std::unique_ptr<Slot>> slots_;
  size_t next_ = 0;
};

}  // namespace sepia::kernels::cuda
