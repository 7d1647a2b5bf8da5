#include "kernels/cuda/upload_ring.h"

#include <algorithm>
#include <cstring>

namespace sepia::kernels::cuda {

UploadRing::UploadRing(size_t slot_bytes, int num_slots) : slot_bytes_(slot_bytes) {
  for (int i = 0; i < num_slots; ++i) slots_.push_back(std::make_unique<Slot>(slot_bytes));
}

void UploadRing::Copy(Stream& stream, void* to, const void* from, size_t num_bytes) {
  for (size_t begin = 0; begin < num_bytes; begin += slot_bytes_) {
    const size_t count = std::min(slot_bytes_, num_bytes - begin);
    Slot& slot = *slots_[next_++ % slots_.size()];
    slot.copied.Synchronize();  // of its last use
    std::memcpy(slot.memory.data(), static_cast<const char*>(from) + begin, count);
    CopyToDevice(stream, static_cast<char*>(to) + begin, slot.memory.data(), count);
    slot.copied.Record(stream);
  }
}

}  // namespace sepia::kernels::cuda
