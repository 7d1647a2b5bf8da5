#include "base/device_memory.h"

#include <cstring>

namespace sepia {
namespace {

MemoryBackend* cuda_memory = nullptr;

}  // namespace

void RegisterCudaMemory(MemoryBackend* memory) {
  CHECK(cuda_memory == nullptr && memory != nullptr, "a second cuda device");
  cuda_memory = memory;
}

MemoryBackend& MemoryOf(Device device) {
  CHECK(device == Device::kCuda && cuda_memory != nullptr, "no device was opened");
  return *cuda_memory;
}

void CopyTensor(const ConstTensorView& from, const TensorView& to) {
  CHECK(from.dtype() == to.dtype() && from.num_elements() == to.num_elements(),
        "a copy of {} {} to {} {}", DTypeName(from.dtype()), from.shape(), DTypeName(to.dtype()),
        to.shape());
  const int64_t num_bytes = from.num_bytes();
  if (num_bytes == 0) return;
  const bool from_host = from.device() == Device::kCpu;
  const bool to_host = to.device() == Device::kCpu;
  if (from_host && to_host) {
    std::memcpy(to.raw(), from.raw(), static_cast<size_t>(num_bytes));
  } else if (from_host) {
    MemoryOf(to.device()).CopyFromHost(to.raw(), from.raw(), num_bytes);
  } else if (to_host) {
    MemoryOf(from.device()).CopyToHost(to.raw(), from.raw(), num_bytes);
  } else {
    MemoryOf(to.device()).CopyInside(to.raw(), from.raw(), num_bytes);
  }
}

void FillBytes(const TensorView& tensor, uint8_t byte) {
  if (tensor.num_bytes() == 0) return;
  if (tensor.device() == Device::kCpu) {
    std::memset(tensor.raw(), byte, static_cast<size_t>(tensor.num_bytes()));
  } else {
    MemoryOf(tensor.device()).Fill(tensor.raw(), byte, tensor.num_bytes());
  }
}

OwnedTensor OnHost(const ConstTensorView& tensor) {
  OwnedTensor copy(tensor.dtype(), tensor.shape());
  CopyTensor(tensor, copy);
  return copy;
}

}  // namespace sepia
