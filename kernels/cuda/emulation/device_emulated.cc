// device.h on the host: memory is host memory, kernels run on fibers, at once or late (streams.h).
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/streams.h"
#include "kernels/cuda/emulation/thread_block.h"

namespace sepia::kernels::cuda {
namespace {

using emulation::GlobalMemory;
using emulation::RunOnStream;

std::atomic<int> late_streams = 0;  // how many LateStreams live

// The work that a late stream has put off. Streams that are not late have none.
struct LateWork {
  std::deque<std::function<void()>> waiting;

  void RunNext() {
    const std::function<void()> work = std::move(waiting.front());
    waiting.pop_front();
    work();
  }
};
using LateStream = std::shared_ptr<LateWork>;  // what a handle points to

// A point in a stream, from Record on.
struct RecordedPoint {
  LateStream stream;  // null: not late
  std::atomic<bool> done = false;
  double seconds = 0;

  void Reach() {
    seconds = MonotonicSeconds();
    done = true;
  }
  void WaitFor() {
    while (!done && !stream->waiting.empty()) stream->RunNext();
    if (!done) Reach();  // dropped with its stream
  }
};
using EmulatedEvent = std::shared_ptr<RecordedPoint>;  // null: never recorded

const EmulatedEvent& PointOf(void* event) { return *static_cast<EmulatedEvent*>(event); }

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

void CopyBytes(Stream& stream, void* to, const void* from, size_t num_bytes) {
  if (num_bytes == 0) return;
  RunOnStream(stream.handle(), [=] { std::memcpy(to, from, num_bytes); });
}

}  // namespace

namespace emulation {

LateStreams::LateStreams() { ++late_streams; }
LateStreams::~LateStreams() { --late_streams; }

bool IsLate(const void* stream_handle) { return stream_handle != nullptr; }

void RunOnStream(void* stream_handle, std::function<void()> work) {
  if (!IsLate(stream_handle)) return work();
  (*static_cast<LateStream*>(stream_handle))->waiting.push_back(std::move(work));
}

}  // namespace emulation

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

Stream::Stream(const Where&) {
  if (late_streams > 0) handle_ = new LateStream(std::make_shared<LateWork>());
}

Stream::~Stream() {
  if (handle_ == nullptr) return;
  const std::unique_ptr<LateStream> stream(static_cast<LateStream*>(handle_));
  (*stream)->waiting.clear();
}

void Stream::Synchronize(const Where&) {
  if (handle_ == nullptr) return;
  const LateStream stream = *static_cast<LateStream*>(handle_);
  while (!stream->waiting.empty()) stream->RunNext();
}

Event::Event(const Where&) : handle_(new EmulatedEvent) {}
Event::~Event() { delete static_cast<EmulatedEvent*>(handle_); }

void Event::Record(Stream& stream, const Where&) {
  const auto point = std::make_shared<RecordedPoint>();
  if (stream.handle() != nullptr) point->stream = *static_cast<LateStream*>(stream.handle());
  RunOnStream(stream.handle(), [point] { point->Reach(); });
  *static_cast<EmulatedEvent*>(handle_) = point;
}

bool Event::IsDone(const Where&) const {
  return PointOf(handle_) == nullptr || PointOf(handle_)->done;
}

void Event::Synchronize(const Where&) const {
  if (const EmulatedEvent point = PointOf(handle_)) point->WaitFor();
}

void Event::MakeWait(Stream& stream, const Where&) const {
  const EmulatedEvent point = PointOf(handle_);
  if (point == nullptr || point->done) return;
  RunOnStream(stream.handle(), [point] { point->WaitFor(); });
}

float Event::MillisecondsSince(const Event& begin, const Where& where) const {
  const EmulatedEvent &from = PointOf(begin.handle_), &to = PointOf(handle_);
  if (from == nullptr || to == nullptr) throw DeviceError("an event was never recorded", where);
  from->WaitFor();
  to->WaitFor();
  return static_cast<float>((to->seconds - from->seconds) * 1e3);
}

DeviceMemory::DeviceMemory(size_t num_bytes, const Where&) : size_(num_bytes) {
  if (num_bytes > 0) data_ = GlobalMemory::Get().Allocate(num_bytes);
}

DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) GlobalMemory::Get().Free(data_);
}

PinnedMemory::PinnedMemory(size_t num_bytes, const Where&) : data_(new char[num_bytes]) {
  const std::lock_guard lock(Pinned().mutex);
  Pinned().ranges[static_cast<char*>(data_)] = num_bytes;
}

PinnedMemory::~PinnedMemory() {
  const std::lock_guard lock(Pinned().mutex);
  Pinned().ranges.erase(static_cast<char*>(data_));
  delete[] static_cast<char*>(data_);
}

// What CUDA has not read of pageable memory when a copy returns, it has copied.
void CopyToDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where) {
  CheckDeviceRange(to, num_bytes, "copy to the device", where);
  const auto* begin = static_cast<const char*>(from);
  if (!emulation::IsLate(stream.handle()) || Pinned().Contains(from)) {
    return CopyBytes(stream, to, from, num_bytes);
  }
  RunOnStream(stream.handle(), [to, bytes = std::vector<char>(begin, begin + num_bytes)] {
    std::memcpy(to, bytes.data(), bytes.size());
  });
}

void CopyToHost(Stream& stream, void* to, const void* from, size_t num_bytes, const Where& where) {
  CheckDeviceRange(from, num_bytes, "copy to the host", where);
  CopyBytes(stream, to, from, num_bytes);
}

void CopyOnDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where) {
  CheckDeviceRange(from, num_bytes, "copy on the device", where);
  CheckDeviceRange(to, num_bytes, "copy on the device", where);
  CopyBytes(stream, to, from, num_bytes);
}

void SetBytes(Stream& stream, void* to, uint8_t value, size_t num_bytes, const Where& where) {
  CheckDeviceRange(to, num_bytes, "set bytes", where);
  if (num_bytes == 0) return;
  RunOnStream(stream.handle(), [=] { std::memset(to, value, num_bytes); });
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
  if (!emulation::IsLate(stream.handle())) return run(kernel.arguments[0]);
  // Aligned for any argument.
  std::vector<std::max_align_t> copy(kernel.argument_bytes / sizeof(std::max_align_t) + 1);
  std::memcpy(copy.data(), kernel.arguments[0], kernel.argument_bytes);
  RunOnStream(stream.handle(), [run, copy]() mutable { run(copy.data()); });
}

}  // namespace sepia::kernels::cuda
