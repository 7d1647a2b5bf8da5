#include "base/buffer.h"

#include <sys/mman.h>

#include <utility>

#include "base/device_memory.h"
#include "base/error.h"

namespace sepia {

// Anonymous pages are zero, page aligned, and committed on first touch.
Buffer::Buffer(int64_t num_bytes, const char* purpose, Device device)
    : size_(num_bytes), device_(device) {
  CHECK_GE(num_bytes, 0);
  if (num_bytes == 0) return;
  if (device != Device::kCpu) {
    data_ = static_cast<std::byte*>(MemoryOf(device).Allocate(num_bytes, purpose));
    return;
  }
  void* memory = mmap(nullptr, static_cast<size_t>(num_bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw UserError(
        ExitCode::kEnvironment,
        fmt::format("out of memory: {} needs {:.1f} MiB; lower batch.micro, sequence_length or the "
                    "model's size, or turn on activation recompute",
                    purpose, static_cast<double>(num_bytes) / (1 << 20)));
  }
  data_ = static_cast<std::byte*>(memory);
  madvise(memory, static_cast<size_t>(num_bytes), MADV_HUGEPAGE);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_ == Device::kCpu) {
    munmap(data_, static_cast<size_t>(size_));
  } else {
    MemoryOf(device_).Free(data_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  return *this;
}

OwnedTensor::OwnedTensor(DType dtype, const Shape& shape, Device device)
    : buffer_(shape.num_elements() * DTypeSize(dtype), "a tensor", device),
      view_(buffer_.data(), dtype, shape, device) {}

}  // namespace sepia
