// Owning, 256-byte aligned, zero-initialised host memory. Move-only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace sepia {

class Buffer {
 public:
  Buffer() = default;
  // Throws UserError(kEnvironment) naming the size and `purpose` when the system refuses.
  // Pages are committed on first touch, so an untouched Buffer costs address space only.
  Buffer(int64_t num_bytes, const char* purpose);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// One tensor that owns its memory: for tests, tools and small long-lived tables. Models use Arena.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType dtype, const Shape& shape);

  TensorView view() const { return view_; }
  operator TensorView() const { return view_; }            // NOLINT: an owner is a view
  operator ConstTensorView() const { return view_; }       // NOLINT
  template <typename T>
  T* data() const {
    return view_.data<T>();
  }

 private:
  Buffer buffer_;
  TensorView view_;
};

}  // namespace sepia
