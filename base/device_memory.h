// Memory that tensors live in, on any device, behind one interface: buffers, arenas and copies are
// the same code for all. Only ops see a difference, and they dispatch on kernels::Context.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "base/check.h"
#include "base/tensor.h"

namespace sepia {

// A device other than the host. Calls are in order with the work enqueued on the device.
class MemoryBackend {
 public:
  virtual ~MemoryBackend() = default;
  // Aligned to 256 bytes, contents undefined. Throws UserError(kEnvironment), naming the size and
  // `purpose`, when the device has no room.
  virtual void* Allocate(int64_t num_bytes, const char* purpose) = 0;
  virtual void Free(void* memory) noexcept = 0;
  virtual void Fill(void* to, uint8_t byte, int64_t num_bytes) = 0;
  // Return when the host memory may be read or reused.
  virtual void CopyFromHost(void* to, const void* from, int64_t num_bytes) = 0;
  virtual void CopyToHost(void* to, const void* from, int64_t num_bytes) = 0;
  virtual void CopyInside(void* to, const void* from, int64_t num_bytes) = 0;
};

// Makes `memory`, which must live as long as the process, the one of kCuda. Once, by
// kernels::OpenDevice; CHECK-fails on a second one.
void RegisterCudaMemory(MemoryBackend* memory);
// CHECK-fails for the host and when nobody registered one.
MemoryBackend& MemoryOf(Device device);

// The same elements, from and to any device. Equal dtypes and numbers of elements. Returns when
// host memory may be read or reused.
void CopyTensor(const ConstTensorView& from, const TensorView& to);

// All bytes of a tensor on any device.
void FillBytes(const TensorView& tensor, uint8_t byte);

// A copy in host memory.
OwnedTensor OnHost(const ConstTensorView& tensor);

// A tensor for host code to read: itself where it is on the host, else a copy.
class HostView {
 public:
  explicit HostView(const ConstTensorView& tensor) : view_(tensor) {
    if (tensor.device() == Device::kCpu) return;
    copy_ = OnHost(tensor);
    view_ = copy_;
  }
  const ConstTensorView& operator*() const { return view_; }
  const ConstTensorView* operator->() const { return &view_; }

 private:
  OwnedTensor copy_;
  ConstTensorView view_;
};

// write(host memory of the shape of `to`), which then is the contents of `to`.
template <typename Write>
void WriteFromHost(const TensorView& to, const Write& write) {
  if (to.device() == Device::kCpu) {
    write(to);
    return;
  }
  const OwnedTensor values(to.dtype(), to.shape());
  write(values.view());
  CopyTensor(values, to);
}

// One value from or to a [1] tensor on any device. Reading waits for the work enqueued there.
template <typename T>
T ReadScalar(const ConstTensorView& tensor) {
  CHECK_EQ(tensor.num_elements(), 1);
  T value;
  CopyTensor(tensor, TensorView(&value, DTypeOf<T>::value, tensor.shape()));
  return value;
}
template <typename T>
void WriteScalar(const TensorView& tensor, T value) {
  CHECK_EQ(tensor.num_elements(), 1);
  CopyTensor(ConstTensorView(&value, DTypeOf<T>::value, tensor.shape()), tensor);
}

}  // namespace sepia
