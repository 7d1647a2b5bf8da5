// Non-owning views of contiguous, row-major tensors. Trivially copyable; no strides, no autograd.
// A view does not keep its memory alive: Buffer (base/buffer.h) and Arena (base/arena.h) do.
// Const is deep, as with std::span<const T>.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/dtype.h"
#include "base/shape.h"

namespace sepia {

enum class Device : uint8_t { kCpu, kCuda };

namespace internal {

template <typename Pointer>
class BasicTensorView {
 public:
  BasicTensorView() = default;
  BasicTensorView(Pointer data, DType dtype, const Shape& shape, Device device = Device::kCpu)
      : data_(data), dtype_(dtype), device_(device), shape_(shape) {}

  // An absent optional argument. A counting Arena hands out present views with null data.
  bool empty() const { return shape_.rank() == 0 && data_ == nullptr; }

  Pointer raw() const { return data_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t num_elements() const { return shape_.num_elements(); }
  int64_t num_bytes() const { return num_elements() * DTypeSize(dtype_); }

  // The same memory under another shape with as many elements.
  BasicTensorView Reshaped(const Shape& shape) const {
    CHECK_EQ(shape.num_elements(), shape_.num_elements());
    return BasicTensorView(data_, dtype_, shape, device_);
  }

  // Rows [begin, begin + count) of the first dimension.
  BasicTensorView Rows(int64_t begin, int64_t count) const;

 protected:
  // Before host code touches elements.
  void CheckHost(DType dtype) const {
    CHECK(dtype_ == dtype, "tensor holds {}", DTypeName(dtype_));
    CHECK(device_ == Device::kCpu, "host code reads a tensor of a device");
  }

  Pointer data_ = nullptr;
  DType dtype_ = DType::kFloat32;
  Device device_ = Device::kCpu;
  Shape shape_;
};

template <typename Pointer>
BasicTensorView<Pointer> BasicTensorView<Pointer>::Rows(int64_t begin, int64_t count) const {
  CHECK(begin >= 0 && count >= 0 && begin + count <= dim(0), "rows [{}, {}) of {}", begin,
        begin + count, dim(0));
  std::array<int64_t, Shape::kMaxRank> dims{};
  int64_t row_bytes = DTypeSize(dtype_);
  for (int i = 1; i < rank(); ++i) {
    dims[static_cast<size_t>(i)] = dim(i);
    row_bytes *= dim(i);
  }
  dims[0] = count;
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const std::byte,
                                  std::byte>;
  Pointer data = data_ == nullptr ? nullptr : static_cast<Byte*>(data_) + begin * row_bytes;
  return BasicTensorView(data, dtype_,
                         Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank()))),
                         device_);
}

}  // namespace internal

class TensorView : public internal::BasicTensorView<void*> {
 public:
  using BasicTensorView::BasicTensorView;
  TensorView(const BasicTensorView& view) : BasicTensorView(view) {}  // NOLINT: same thing

  // Wraps a host vector or span: TensorView::Of(std::span(values), {2, 3}).
  template <typename T>
  static TensorView Of(std::span<T> values, const Shape& shape) {
    CHECK_EQ(static_cast<int64_t>(values.size()), shape.num_elements());
    return TensorView(values.data(), DTypeOf<T>::value, shape);
  }

  // The elements, checked against the dtype. Of host memory only, as span() is; code of a device
  // uses raw(), base/device_memory.h copies.
  template <typename T>
  T* data() const {
    CheckHost(DTypeOf<T>::value);
    return static_cast<T*>(data_);
  }
  template <typename T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(num_elements())};
  }
};

class ConstTensorView : public internal::BasicTensorView<const void*> {
 public:
  using BasicTensorView::BasicTensorView;
  ConstTensorView(const BasicTensorView& view) : BasicTensorView(view) {}  // NOLINT: same thing
  ConstTensorView(const internal::BasicTensorView<void*>& view)            // NOLINT: adds const
      : BasicTensorView(view.raw(), view.dtype(), view.shape(), view.device()) {}

  template <typename T>
  static ConstTensorView Of(std::span<const T> values, const Shape& shape) {
    CHECK_EQ(static_cast<int64_t>(values.size()), shape.num_elements());
    return ConstTensorView(values.data(), DTypeOf<T>::value, shape);
  }

  template <typename T>
  const T* data() const {
    CheckHost(DTypeOf<T>::value);
    return static_cast<const T*>(data_);
  }
  template <typename T>
  std::span<const T> span() const {
    return {data<T>(), static_cast<size_t>(num_elements())};
  }
};

// Parameter gradients: written, or added to what is there. Never implied by convention.
enum class GradMode : uint8_t { kOverwrite, kAccumulate };

}  // namespace sepia
