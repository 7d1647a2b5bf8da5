// device.h on the CUDA run time. Never run on hardware so far (docs/cuda.md).
#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_calls.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/graph.h"

namespace sepia::kernels::cuda {

int NumDevices(std::string* why) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  // Without a driver the run time calls it too old.
  if (why != nullptr) *why = cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status);
  return 0;
}

DeviceProperties GetDeviceProperties(int device, const Where& where) {
  cudaDeviceProp p;
  Check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties", where);
  return {.name = p.name,
          .num_multiprocessors = p.multiProcessorCount,
          .memory_bytes = p.totalGlobalMem,
          .major = p.major,
          .minor = p.minor};
}

void UseDevice(int device, const Where& where) {
  Check(cudaSetDevice(device), "cudaSetDevice", where);
}

int UsedDevice(const Where& where) {
  int device = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice", where);
  return device;
}

Stream::Stream(const Where& where) {
  cudaStream_t stream;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate", where);
  handle_ = stream;
}

Stream::~Stream() {
  if (handle_ != nullptr) cudaStreamDestroy(Handle(*this));
}

void Stream::Synchronize(const Where& where) {
  Check(cudaStreamSynchronize(Handle(*this)), "cudaStreamSynchronize", where);
}

Event::Event(const Where& where) {
  cudaEvent_t event;
  Check(cudaEventCreate(&event), "cudaEventCreate", where);
  handle_ = event;
}

Event::~Event() {
  if (handle_ != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(handle_));
}

void Event::Record(Stream& stream, const Where& where) {
  Check(cudaEventRecord(static_cast<cudaEvent_t>(handle_), Handle(stream)), "cudaEventRecord",
        where);
}

bool Event::IsDone(const Where& where) const {
  const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(handle_));
  if (status == cudaErrorNotReady) return false;
  Check(status, "cudaEventQuery", where);
  return true;
}

void Event::Synchronize(const Where& where) const {
  Check(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)), "cudaEventSynchronize", where);
}

void Event::MakeWait(Stream& stream, const Where& where) const {
  Check(cudaStreamWaitEvent(Handle(stream), static_cast<cudaEvent_t>(handle_), 0),
        "cudaStreamWaitEvent", where);
}

float Event::MillisecondsSince(const Event& begin, const Where& where) const {
  Check(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)), "cudaEventSynchronize", where);
  float milliseconds = 0;
  Check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(begin.handle_),
                             static_cast<cudaEvent_t>(handle_)),
        "cudaEventElapsedTime", where);
  return milliseconds;
}

DeviceMemory::DeviceMemory(size_t num_bytes, const Where& where) : size_(num_bytes) {
  if (num_bytes == 0) return;
  Check(cudaMalloc(&data_, num_bytes), "cudaMalloc", where);
  NoteAllocation(data_);
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  NoteFree(data_);
  cudaFree(data_);
}

PinnedMemory::PinnedMemory(size_t num_bytes, const Where& where) {
  Check(cudaMallocHost(&data_, num_bytes), "cudaMallocHost", where);
}

PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

void CopyToDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where) {
  Check(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyHostToDevice, Handle(stream)),
        "cudaMemcpyAsync to the device", where);
}

void CopyToHost(Stream& stream, void* to, const void* from, size_t num_bytes, const Where& where) {
  Check(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDeviceToHost, Handle(stream)),
        "cudaMemcpyAsync to the host", where);
}

void CopyOnDevice(Stream& stream, void* to, const void* from, size_t num_bytes,
                  const Where& where) {
  Check(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDeviceToDevice, Handle(stream)),
        "cudaMemcpyAsync on the device", where);
}

void SetBytes(Stream& stream, void* to, uint8_t value, size_t num_bytes, const Where& where) {
  Check(cudaMemsetAsync(to, value, num_bytes, Handle(stream)), "cudaMemsetAsync", where);
}

void LaunchErased(Stream& stream, const LaunchShape& shape, const ErasedKernel& kernel,
                  const Where& where) {
  const auto& [name, grid, block, shared_bytes] = shape;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > 48 * 1024) {
    Check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          name, where);
  }
  Check(cudaLaunchKernel(kernel.function, dim3(grid.x, grid.y, grid.z), dim3(block),
                         kernel.arguments, shared_bytes, Handle(stream)),
        name, where);
}

}  // namespace sepia::kernels::cuda
