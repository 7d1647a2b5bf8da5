// device.h on the host, but for streams and events: memory is host memory, kernels run on fibers.
#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/streams.h"
#include "kernels/cuda/emulation/thread_block.h"
#include "kernels/cuda/graph.h"

namespace sepia::kernels::cuda {
namespace {

using emulation::GlobalMemory;
using emulation::RunOnStream;
using emulation::WorkKind;

// Where pinned memory lies, by its beginning.
struct PinnedRanges {
  std::mutex mutex;
  std::map<const char*, size_t> ranges;

  bool Contains(const void* address) {
    const std::lock_guard lock(mutex);
    const auto* byte = static_cast<const char*>(address);
    auto next = ranges.upper_bound(byte);
    return next != ranges.begin() && byte < (--next)->first + next->second;
  }
};
PinnedRanges& Pinned() {
  static PinnedRanges pinned;
  return pinned;
}

void CheckDeviceRange(const void* address, size_t num_bytes, const char* what, const Where& where) {
  if (num_bytes > 0 && !GlobalMemory::Get().Contains(address, num_bytes)) {
    throw DeviceError(std::string(what) + ": not inside one device allocation", where);
  }
}

// `from` and `to` are read and written when the copy takes place.
void CopyBytes(Stream& stream, void* to, const void* from, size_t num_bytes, const Where& where) {
  if (num_bytes == 0) return;
  RunOnStream(
      stream.handle(), WorkKind::kCopy, [=] { std::memcpy(to, from, num_bytes); }, where);
}

}  // namespace

int NumDevices(std::string*) { return 1; }

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

DeviceMemory::DeviceMemory(size_t num_bytes, const Where& where) : size_(num_bytes) {
  if (num_bytes == 0) return;
  emulation::RefuseInCapture("allocating device memory", where);
  data_ = GlobalMemory::Get().Allocate(num_bytes);
  NoteAllocation(data_);
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  emulation::SpoilCapture("freeing device memory");
  NoteFree(data_);
  GlobalMemory::Get().Free(data_);
}

PinnedMemory::PinnedMemory(size_t num_bytes, const Where& where) {
  emulation::RefuseInCapture("allocating pinned memory", where);
  data_ = new char[num_bytes];
  const std::lock_guard lock(Pinned().mutex);
  Pinned().ranges[static_cast<char*>(data_)] = num_bytes;
}

PinnedMemory::~PinnedMemory() {
  emulation::SpoilCapture("freeing pinned memory");
  const std::lock_guard lock(Pinned().mutex);
  Pinned().ranges.erase(static_cast<char*>(data_));
  delete[] static_cast<char*>(data_);
}

// What CUDA has not read of pageable memory when a copy returns, it has copied.
void CopyToDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where) {
  CheckDeviceRange(to, num_bytes, "copy to the device", where);
  if (Pinned().Contains(from)) return CopyBytes(stream, to, from, num_bytes, where);
  emulation::RefuseInCapture("a copy from pageable memory", where);
  if (!emulation::IsPutOff(stream.handle())) return CopyBytes(stream, to, from, num_bytes, where);
  const auto* begin = static_cast<const char*>(from);
  const auto copy = [to, bytes = std::vector<char>(begin, begin + num_bytes)] {
    std::memcpy(to, bytes.data(), bytes.size());
  };
  RunOnStream(stream.handle(), WorkKind::kCopy, copy, where);
}

void CopyToHost(Stream& stream, void* to, const void* from, size_t num_bytes, const Where& where) {
  CheckDeviceRange(from, num_bytes, "copy to the host", where);
  if (!Pinned().Contains(to)) emulation::RefuseInCapture("a copy to pageable memory", where);
  CopyBytes(stream, to, from, num_bytes, where);
}

void CopyOnDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where) {
  CheckDeviceRange(from, num_bytes, "copy on the device", where);
  CheckDeviceRange(to, num_bytes, "copy on the device", where);
  CopyBytes(stream, to, from, num_bytes, where);
}

void SetBytes(Stream& stream, void* to, uint8_t value, size_t num_bytes, const Where& where) {
  CheckDeviceRange(to, num_bytes, "set bytes", where);
  if (num_bytes == 0) return;
  RunOnStream(
      stream.handle(), WorkKind::kSet, [=] { std::memset(to, value, num_bytes); }, where);
}

void LaunchErased(Stream& stream, const LaunchShape& shape, const ErasedKernel& kernel,
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
  const auto run = [shape, function = kernel.function, call = kernel.call](void* argument) {
    emulation::ThreadBlock::RunGrid(shape, [&] { call(function, &argument); });
  };
  if (!emulation::IsPutOff(stream.handle())) return run(kernel.arguments[0]);
  // Aligned for any argument.
  std::vector<std::max_align_t> copy(kernel.argument_bytes / sizeof(std::max_align_t) + 1);
  std::memcpy(copy.data(), kernel.arguments[0], kernel.argument_bytes);
  RunOnStream(
      stream.handle(), WorkKind::kKernel, [run, copy]() mutable { run(copy.data()); }, where);
}

}  // namespace sepia::kernels::cuda
