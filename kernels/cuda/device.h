// The thin layer between Sepia and a GPU: memory, streams, events, launches. Everything of the cuda
// backend stands on this header alone and compiles for either implementation: the CUDA run time
// (device_runtime.cc) or host fibers (emulation/device_emulated.cc).
//
// Calls only enqueue, except Synchronize and what says otherwise. A failed call throws DeviceError
// with the caller's file and line. Plain C++ without fmt, so that nvcc reads it quickly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace sepia::kernels::cuda {

// A source line, by default the caller's: std::source_location, which clang 14 lacks.
struct Where {
  const char* file;
  int line;

  static constexpr Where Current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

class DeviceError : public std::runtime_error {
 public:
  DeviceError(const std::string& what, const Where& where)
      : std::runtime_error(std::string(where.file) + ":" + std::to_string(where.line) + ": " +
                           what) {}
};

struct DeviceProperties {
  std::string name;
  int num_multiprocessors = 0;
  size_t memory_bytes = 0;
  int major = 0, minor = 0;  // compute capability
};
// 0 where none can be used; `why` then says it in the driver's words.
int NumDevices(std::string* why = nullptr);
DeviceProperties GetDeviceProperties(int device, const Where& where = Where::Current());
// The device of the calling thread.
void UseDevice(int device, const Where& where = Where::Current());
int UsedDevice(const Where& where = Where::Current());

// An order of work. Work on different streams may overlap; Event orders it.
class Stream {
 public:
  explicit Stream(const Where& where = Where::Current());
  ~Stream();
  Stream(Stream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Stream& operator=(Stream&&) = delete;

  // Waits until all work enqueued so far is done; throws what it failed with.
  void Synchronize(const Where& where = Where::Current());
  void* handle() const { return handle_; }

 private:
  void* handle_ = nullptr;
};

class Event {
 public:
  explicit Event(const Where& where = Where::Current());
  ~Event();
  Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&&) = delete;

  void Record(Stream& stream, const Where& where = Where::Current());
  // Whether the work before the recorded point is done; does not wait.
  bool IsDone(const Where& where = Where::Current()) const;
  // Waits for the recorded point.
  void Synchronize(const Where& where = Where::Current()) const;
  // Later work on `stream` waits for the recorded point.
  void MakeWait(Stream& stream, const Where& where = Where::Current()) const;
  // Milliseconds from `begin` to this event, both recorded; waits for them.
  float MillisecondsSince(const Event& begin, const Where& where = Where::Current()) const;

 private:
  void* handle_ = nullptr;
};

// Device memory, 256-byte aligned, contents undefined. Move-only.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t num_bytes, const Where& where = Where::Current());
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  template <typename T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Host memory that the device reads by itself: copies from it return at once and read it later.
class PinnedMemory {
 public:
  explicit PinnedMemory(size_t num_bytes, const Where& where = Where::Current());
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

// Host memory is pageable or pinned; pageable copies may wait for the stream.
void CopyToDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where = Where::Current());
void CopyToHost(Stream& stream, void* to, const void* from, size_t num_bytes,
                const Where& where = Where::Current());
void CopyOnDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where = Where::Current());
void SetBytes(Stream& stream, void* to, uint8_t value, size_t num_bytes,
              const Where& where = Where::Current());

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
};

struct LaunchShape {
  const char* name;  // of the kernel, for messages and counters
  Dim3 grid;
  uint32_t block;  // threads, a multiple of 32
  size_t shared_bytes = 0;
};

// A launch without its types: what an implementation sees.
struct ErasedKernel {
  const void* function;
  void** arguments;  // one
  size_t argument_bytes;
  // Calls the function with the arguments on the host: only emulation does.
  void (*call)(const void* function, void** arguments);
};
void LaunchErased(Stream& stream, const LaunchShape& shape, const ErasedKernel& kernel,
                  const Where& where);

// Enqueues kernel(argument) for every thread of the grid. An empty grid is no launch.
template <typename Argument>
void Launch(Stream& stream, const LaunchShape& shape, void (*kernel)(Argument),
            std::type_identity_t<Argument> argument, const Where& where = Where::Current()) {
  static_assert(std::is_trivially_copyable_v<std::remove_cvref_t<Argument>>);
  void* arguments[] = {&argument};
  LaunchErased(stream, shape,
               {.function = reinterpret_cast<const void*>(kernel),
                .arguments = arguments,
                .argument_bytes = sizeof(argument),
                .call =
                    [](const void* function, void** values) {
                      reinterpret_cast<void (*)(Argument)>(const_cast<void*>(function))(
                          *static_cast<std::remove_cvref_t<Argument>*>(values[0]));
                    }},
               where);
}

}  // namespace sepia::kernels::cuda
