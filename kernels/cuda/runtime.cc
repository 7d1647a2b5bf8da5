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
  std::string why;
  const int count = NumDevices(&why);
  if (count == 0) {
    throw UserError(ExitCode::kEnvironment,
                    fmt::format("device: CUDA, but this machine has no GPU that can be used: {} "
                                "(nvidia-smi shows driver and GPUs); use --set device=CPU",
                                why));
  }
  const int device = local_rank % count;
  UseDevice(device);
  runtime = new Runtime(device);
  RegisterCudaMemory(runtime);
}

bool Runtime::IsOpen() { return runtime != nullptr; }

Runtime& Runtime::Get() {
  CHECK(runtime != nullptr, "device: CUDA was never opened");
  return *runtime;
}

Runtime::Runtime(int device) : device_(device) {}

void Runtime::Multiply(const MatrixProduct& product, const Where& where) {
  const std::lock_guard lock(mutex_);
  blas_.Multiply(stream_, product, where);
}

DnnAttention& Runtime::Dnn(const SepAttentionSize& size) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<DnnAttention>& attention =
      dnn_[{size.dtype, size.batch_size, size.seq_length, size.num_heads, size.head_dim}];
  if (attention == nullptr) attention = std::make_unique<DnnAttention>(size);
  return *attention;
}

std::shared_ptr<const DeviceAttentionIndex> Runtime::Upload(const AttentionIndex& index) {
  const size_t size = DeviceAttentionIndex::MostBytes(index.batch_size(), index.seq_length());
  cuda::DeviceMemory memory;
  {
    const std::lock_guard lock(mutex_);
    const auto spare = spare_.find(size);
    if (spare != spare_.end()) {
      memory = std::move(spare->second);
      spare_.erase(spare);
    }
  }
  if (memory.size() == 0) memory = cuda::DeviceMemory(size);
  const auto copy = [this](void* to, const void* from, size_t num_bytes) {
    CopyFromHost(to, from, static_cast<int64_t>(num_bytes));
  };
  // One stream orders the last kernel that reads this copy and the next upload.
  const auto give_back = [this, size](DeviceAttentionIndex* gone) {
    const std::lock_guard lock(mutex_);
    spare_.emplace(size, std::move(*gone).TakeMemory());
    delete gone;
  };
  return {new DeviceAttentionIndex(index, copy, std::move(memory)), give_back};
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
  const std::lock_guard lock(upload_mutex_);
  uploads_.Copy(stream_, to, from, static_cast<size_t>(num_bytes));
}

void Runtime::CopyToHost(void* to, const void* from, int64_t num_bytes) {
  cuda::CopyToHost(stream_, to, from, static_cast<size_t>(num_bytes));
  stream_.Synchronize();
}

void Runtime::CopyInside(void* to, const void* from, int64_t num_bytes) {
  CopyOnDevice(stream_, to, from, static_cast<size_t>(num_bytes));
}

bool HasBackend() { return true; }
void OpenDevice(int local_rank) { Runtime::Open(local_rank); }
void Synchronize() { Runtime::Get().stream().Synchronize(); }
Stream& MainStream() { return Runtime::Get().stream(); }
std::string DeviceName() { return Runtime::Get().Describe(); }

}  // namespace sepia::kernels::cuda
