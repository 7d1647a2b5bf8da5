// Owning memory, 256-byte aligned. Move-only. The host's is zero-initialised; a device's is
// undefined, and host code reaches it through base/device_memory.h alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace sepia {

class Buffer {
 public:
  Buffer() = default;
  // Throws UserError(kEnvironment) naming the size and `purpose` when the system refuses.
  // Host pages are committed on first touch, so an untouched Buffer costs address space only.
  Buffer(int64_t num_bytes, const char* purpose, Device device = Device::kCpu);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  Device device() const { return device_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  Device device_ = Device::kCpu;
};

// One tensor that owns its memory: for tests, tools and small long-lived tables. Models use Arena.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType dtype, const Shape& shape, Device device = Device::kCpu);

  TensorView view() const { return view_; }
  operator TensorView() const { return view_; }       // NOLINT: an owner is a view
  operator ConstTensorView() const { return view_; }  // NOLINT
  template <typename T>
  T* data() const {
    return view_.data<T>();
  }

 private:
  Buffer buffer_;
  TensorView view_;
};

}  // namespace sepia
