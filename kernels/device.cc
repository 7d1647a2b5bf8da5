#include "kernels/device.h"

namespace sepia::kernels {

void OpenDevice(Device device, int local_rank) {
  if (device == Device::kCuda) cuda::OpenDevice(local_rank);
}

bool HasBackend(Device device) { return device == Device::kCpu || cuda::HasBackend(); }

void Synchronize(Device device) {
  if (device == Device::kCuda) cuda::Synchronize();
}

std::string DeviceName(Device device) {
  return device == Device::kCuda ? cuda::DeviceName() : std::string();
}

}  // namespace sepia::kernels
