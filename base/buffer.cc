#include "base/buffer.h"

#include <sys/mman.h>

#include <utility>

#include "base/error.h"

namespace sepia {

// Anonymous pages are zero, page aligned, and committed on first touch.
Buffer::Buffer(int64_t num_bytes, const char* purpose) : size_(num_bytes) {
  CHECK_GE(num_bytes, 0);
  if (num_bytes == 0) return;
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
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_));
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

OwnedTensor::OwnedTensor(DType dtype, const Shape& shape)
    : buffer_(shape.num_elements() * DTypeSize(dtype), "a tensor"),
      view_(buffer_.data(), dtype, shape) {}

}  // namespace sepia
