// Blocks of bytes that go to the device while it computes, one after the other: pinned memory, then
// on a stream of copies to a stage on the device, then in order with the kernels to where these
// read them. Two streams, an event each way.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

// Not thread-safe. `compute` must outlive it.
class BatchStages {
 public:
  BatchStages(Stream& compute, size_t max_bytes);

  // fill(pinned memory), then the copy to the stage, behind the last Load.
  void Stage(size_t num_bytes, const std::function<void(std::byte*)>& fill);
  // The staged block becomes the current one, behind all that was enqueued on `compute` before.
  void Load();

  std::byte* current() const { return current_.data<std::byte>(); }
  // Pinned blocks: as many as were ever on their way at once.
  size_t num_pinned() const { return pinned_.size(); }

 private:
  struct Pinned {
    explicit Pinned(size_t num_bytes) : memory(num_bytes) {}
    PinnedMemory memory;
    Event copied;
  };
  Pinned& FreePinned();

  Stream& compute_;
  Stream copies_;
  DeviceMemory stage_, current_;
  size_t staged_bytes_ = 0;
  std::vector<std::unique_ptr<Pinned>> pinned_;
  Pinned* staged_ = nullptr;  // not loaded yet
  Event taken_;               // the stage may be written again
};

}  // namespace sepia::kernels::cuda
