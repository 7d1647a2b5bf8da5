// The device of this process: what the ops share. One stream orders all of it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "base/attention_index.h"
#include "base/device_memory.h"
#include "kernels/context.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dnn.h"
#include "kernels/cuda/sep_attention.h"
#include "kernels/cuda/upload_ring.h"

namespace sepia::kernels::cuda {

class Runtime final : public MemoryBackend {
 public:
  // kernels::OpenDevice's part: chooses the GPU and registers its memory. Once a process.
  static void Open(int local_rank);
  // CHECK-fails before Open.
  static Runtime& Get();
  static bool IsOpen();

  Stream& stream() { return stream_; }
  void Multiply(const MatrixProduct& product, const Where& where = Where::Current());
  // cuDNN's plans for full attention of this size, made once.
  DnnAttention& Dnn(const SepAttentionSize& size);
  // `index` on the device. Its memory, sized for the worst case, is used again when the copy goes:
  // allocating and freeing in every micro-batch would wait for the GPU.
  std::shared_ptr<const DeviceAttentionIndex> Upload(const AttentionIndex& index);
  // An index without far-visible keys, for ops that were given none.
  const AttentionIndex& EmptyIndex(int64_t batch_size, int64_t seq_length);
  std::string Describe() const;

  void* Allocate(int64_t num_bytes, const char* purpose) override;
  void Free(void* memory) noexcept override;
  void Fill(void* to, uint8_t byte, int64_t num_bytes) override;
  void CopyFromHost(void* to, const void* from, int64_t num_bytes) override;
  void CopyToHost(void* to, const void* from, int64_t num_bytes) override;
  void CopyInside(void* to, const void* from, int64_t num_bytes) override;

 private:
  explicit Runtime(int device);

  int device_;
  Stream stream_;
  Blas blas_;
  std::mutex upload_mutex_;
  UploadRing uploads_;
  std::mutex mutex_;  // ranks that are threads of one process share all this
  std::map<void*, cuda::DeviceMemory> allocations_;
  std::map<std::pair<int64_t, int64_t>, AttentionIndex> empty_indexes_;
  std::multimap<size_t, cuda::DeviceMemory> spare_;  // of indexes that are gone, by size
  using DnnKey = std::tuple<DType, int64_t, int64_t, int64_t, int64_t>;
  std::map<DnnKey, std::unique_ptr<DnnAttention>> dnn_;
};

// A tensor's memory as the kernels take it; CHECK-fails for memory of the host. Null when absent.
template <typename T = void>
T* Data(const TensorView& tensor) {
  CHECK(tensor.raw() == nullptr || tensor.device() == Device::kCuda,
        "a kernel was given host memory");
  return static_cast<T*>(tensor.raw());
}
template <typename T = void>
const T* Data(const ConstTensorView& tensor) {
  CHECK(tensor.raw() == nullptr || tensor.device() == Device::kCuda,
        "a kernel was given host memory");
  return static_cast<const T*>(tensor.raw());
}

// Scratch of an op by its size in bytes, given back at the end of the op.
class DeviceScratch {
 public:
  explicit DeviceScratch(Context& ctx) : scope_(*ctx.scratch) {}
  template <typename T = void>
  T* Take(const char* name, size_t num_bytes) {
    const Shape shape{static_cast<int64_t>(num_bytes)};
    return Data<T>(scope_.Allocate(name, DType::kUInt8, shape));
  }

 private:
  ScratchScope scope_;
};

}  // namespace sepia::kernels::cuda
