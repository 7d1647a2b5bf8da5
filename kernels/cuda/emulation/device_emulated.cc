// device.h on the host: memory is host memory, streams run at once, kernels run on fibers.
#include <cstring>

#include "base/clock.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/thread_block.h"

namespace sepia::kernels::cuda {
namespace {

using emulation::GlobalMemory;

struct EmulatedEvent {
  bool recorded = false;
  double seconds = 0;
};

void CheckDeviceRange(const void* address, size_t num_bytes, const char* what, const Where& where) {
  if (num_bytes > 0 && !GlobalMemory::Get().Contains(address, num_bytes)) {
    throw DeviceError(std::string(what) + ": not inside one device allocation", where);
  }
}

void CopyBytes(void* to, const void* from, size_t num_bytes) {
  if (num_bytes > 0) std::memcpy(to, from, num_bytes);
}

}  // namespace

int NumDevices() { return 1; }

DeviceProperties GetDeviceProperties(int device, const Where& where) {
  if (device != 0) throw DeviceError("there is one emulated device, number 0", where);
  return {.name = "emulated on host fibers",
          .num_multiprocessors = 1,
          .memory_bytes = size_t{1} << 34,
          .major = 8,
          .minor = 0};
}

void UseDevice(int device, const Where& where) { GetDeviceProperties(device, where); }

int UsedDevice(const Where&) { return 0; }

Stream::Stream(const Where&) {}
Stream::~Stream() = default;
void Stream::Synchronize(const Where&) {}

Event::Event(const Where&) : handle_(new EmulatedEvent) {}
Event::~Event() { delete static_cast<EmulatedEvent*>(handle_); }

void Event::Record(Stream&, const Where&) {
  *static_cast<EmulatedEvent*>(handle_) = {.recorded = true, .seconds = MonotonicSeconds()};
}

bool Event::IsDone(const Where&) const {
  return static_cast<const EmulatedEvent*>(handle_)->recorded;
}

void Event::MakeWait(Stream&, const Where&) const {}

float Event::MillisecondsSince(const Event& begin, const Where& where) const {
  const auto& from = *static_cast<const EmulatedEvent*>(begin.handle_);
  const auto& to = *static_cast<const EmulatedEvent*>(handle_);
  if (!from.recorded || !to.recorded) throw DeviceError("an event was never recorded", where);
  return static_cast<float>((to.seconds - from.seconds) * 1e3);
}

DeviceMemory::DeviceMemory(size_t num_bytes, const Where&) : size_(num_bytes) {
  if (num_bytes > 0) data_ = GlobalMemory::Get().Allocate(num_bytes);
}

DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) GlobalMemory::Get().Free(data_);
}

void CopyToDevice(Stream&, void* to, const void* from, size_t num_bytes, const Where& where) {
  CheckDeviceRange(to, num_bytes, "copy to the device", where);
  CopyBytes(to, from, num_bytes);
}

void CopyToHost(Stream&, void* to, const void* from, size_t num_bytes, const Where& where) {
  CheckDeviceRange(from, num_bytes, "copy to the host", where);
  CopyBytes(to, from, num_bytes);
}

void CopyOnDevice(Stream&, void* to, const void* from, size_t num_bytes, const Where& where) {
  CheckDeviceRange(from, num_bytes, "copy on the device", where);
  CheckDeviceRange(to, num_bytes, "copy on the device", where);
  CopyBytes(to, from, num_bytes);
}

void SetBytes(Stream&, void* to, uint8_t value, size_t num_bytes, const Where& where) {
  CheckDeviceRange(to, num_bytes, "set bytes", where);
  if (num_bytes > 0) std::memset(to, value, num_bytes);
}

void LaunchErased(Stream&, const LaunchShape& shape, const ErasedKernel& kernel,
                  const Where& where) {
  if (shape.grid.y > 65535 || shape.grid.z > 65535) {
    throw DeviceError(std::string(shape.name) + ": a grid's y and z end at 65535", where);
  }
  constexpr size_t kMostShared = 163 * 1024;  // of a block on A100
  if (shape.shared_bytes > kMostShared) {
    throw DeviceError(std::string(shape.name) + ": " + std::to_string(shape.shared_bytes) +
                          " bytes of shared memory; a block of an A100 has " +
                          std::to_string(kMostShared),
                      where);
  }
  emulation::ThreadBlock::RunGrid(shape, [&] { kernel.call(kernel.function, kernel.arguments); });
}

}  // namespace sepia::kernels::cuda
