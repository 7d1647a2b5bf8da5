#include "kernels/cuda/runtime.h"

#include <memory>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/ops.h"
#include "kernels/device.h"

namespace sepia::kernels::cuda {
namespace {

// Never destroyed: tensors may outlive every scope, and the driver goes with the process.
Runtime* runtime = nullptr;

}  // namespace

void Runtime::Open(int local_rank) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (runtime != nullptr) return;
  const int count = NumDevices();
  if (count == 0) {
    throw UserError(ExitCode::kEnvironment,
                    "device: CUDA, but this machine has no GPU that the driver knows (nvidia-smi "
                    "lists them); use --set device=CPU");
  }
  const int device = local_rank % count;
  UseDevice(device);
  runtime = new Runtime(device);
  RegisterCudaMemory(runtime);
}

Runtime& Runtime::Get() {
  CHECK(runtime != nullptr, "device: CUDA was never opened");
  return *runtime;
}

Runtime::Runtime(int device) : device_(device) {}

void Runtime::Multiply(const MatrixProduct& product, const Where& where) {
  const std::lock_guard lock(mutex_);
  blas_.Multiply(stream_, product, where);
}

const AttentionIndex& Runtime::EmptyIndex(int64_t batch_size, int64_t seq_length) {
  const std::lock_guard lock(mutex_);
  const auto key = std::make_pair(batch_size, seq_length);
  const auto found = empty_indexes_.find(key);
  if (found != empty_indexes_.end()) return found->second;
  const std::vector<int32_t> tokens(static_cast<size_t>(batch_size * seq_length));
  const AttentionIndex index(tokens, batch_size, seq_length, AttentionIndexSpec());
  return empty_indexes_.emplace(key, index).first->second;
}

std::string Runtime::Describe() const {
  const DeviceProperties properties = GetDeviceProperties(device_);
  return fmt::format("{}, sm_{}{}, {:.1f} GiB; {}", properties.name, properties.major,
                     properties.minor,
                     static_cast<double>(properties.memory_bytes) / (int64_t{1} << 30), BlasName());
}

void* Runtime::Allocate(int64_t num_bytes, const char* purpose) {
  const std::lock_guard lock(mutex_);
  try {
    cuda::DeviceMemory memory(static_cast<size_t>(num_bytes));
    void* const data = memory.data<void>();
    allocations_.emplace(data, std::move(memory));
    return data;
  } catch (const DeviceError& error) {
    throw UserError(
        ExitCode::kEnvironment,
        fmt::format("out of GPU memory: {} needs {:.1f} MiB; lower batch.micro, sequence_length or "
                    "the model's size, or turn on activation recompute ({})",
                    purpose, static_cast<double>(num_bytes) / (1 << 20), error.what()));
  }
}

void Runtime::Free(void* memory) noexcept {
  const std::lock_guard lock(mutex_);
  allocations_.erase(memory);
}

void Runtime::Fill(void* to, uint8_t byte, int64_t num_bytes) {
  SetBytes(stream_, to, byte, static_cast<size_t>(num_bytes));
}

void Runtime::CopyFromHost(void* to, const void* from, int64_t num_bytes) {
  CopyToDevice(stream_, to, from, static_cast<size_t>(num_bytes));
  stream_.Synchronize();
}

void Runtime::CopyToHost(void* to, const void* from, int64_t num_bytes) {
  cuda::CopyToHost(stream_, to, from, static_cast<size_t>(num_bytes));
  stream_.Synchronize();
}

void Runtime::CopyInside(void* to, const void* from, int64_t num_bytes) {
  CopyOnDevice(stream_, to, from, static_cast<size_t>(num_bytes));
}

void OpenDevice(int local_rank) { Runtime::Open(local_rank); }
void Synchronize() { Runtime::Get().stream().Synchronize(); }
Stream& MainStream() { return Runtime::Get().stream(); }
std::string DeviceName() { return Runtime::Get().Describe(); }

}  // namespace sepia::kernels::cuda
