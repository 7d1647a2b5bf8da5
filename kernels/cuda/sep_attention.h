// The op of kernels/sep_attention.h on a device: chooses kernels by dtype and head size, sizes the
// grids from the index on the host, never waits for the device.
#pragma once

#include <functional>
#include <utility>

#include "base/attention_index.h"
#include "base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/sep_attention_kernels.h"

namespace sepia::kernels::cuda {

// The packed keys of a batch on the device: uploaded once, shared by layers and heads.
class DeviceAttentionIndex {
 public:
  // copy(to, from, bytes): enqueues a copy to the device and has read `from` when it returns.
  using Copy = std::function<void(void* to, const void* from, size_t num_bytes)>;
  // `memory`, of MostBytes() or empty, is where the index goes.
  DeviceAttentionIndex(const AttentionIndex& index, const Copy& copy, DeviceMemory memory = {});
  // Waits for the copy.
  DeviceAttentionIndex(Stream& stream, const AttentionIndex& index);
  // In device memory of the caller's that holds what Pack() wrote.
  DeviceAttentionIndex(int64_t batch_size, int64_t seq_length, int64_t packed,
                       const int32_t* values)
      : batch_size_(batch_size), seq_length_(seq_length), max_packed_(packed), values_(values) {}

  // What an index of B rows of T tokens takes with room for `packed` keys a row.
  static size_t Bytes(int64_t batch_size, int64_t seq_length, int64_t packed);
  // Writes an index of at most `packed` keys a row as it lies on the device.
  static void Pack(const AttentionIndex& index, int64_t packed, int32_t* to);

  int64_t batch_size() const { return batch_size_; }
  int64_t seq_length() const { return seq_length_; }
  // Rows of packed keys are this far apart.
  int64_t max_packed() const { return max_packed_; }
  // Every token packed.
  static size_t MostBytes(int64_t batch_size, int64_t seq_length) {
    return Bytes(batch_size, seq_length, seq_length);
  }
  DeviceMemory TakeMemory() && { return std::move(memory_); }
  // Fills the index part of `params`.
  void Describe(SepAttentionParams& params) const;

 private:
  int64_t batch_size_, seq_length_, max_packed_;
  DeviceMemory memory_;    // or empty
  const int32_t* values_;  // positions, count, inverse, num_packed
};

struct SepAttentionSize {
  DType dtype;  // of qkv: f32, bf16, f16
  int64_t batch_size, seq_length, num_heads, head_dim;
  int64_t window;
};

// Device pointers; shapes as in kernels/sep_attention.h. Forward reads qkv, writes out and lse.
struct SepAttentionTensors {
  const void* qkv;
  void* out;
  float* lse;
  const void* dout = nullptr;
  void* dqkv = nullptr;
};

// One call's plan: what runs, and how much device scratch it takes.
class SepAttention {
 public:
  // allow_fallback = false: throws UserError where no tensor-core kernel fits (fp32 has none,
  // 16-bit needs D % 8 == 0). Throws it for D > kMaxHeadDim too.
  SepAttention(const SepAttentionSize& size, const DeviceAttentionIndex& index,
               bool allow_fallback);

  // What runs: "mma.sync bf16 D=64", "mma.sync f16 D=40 in 64", "fallback f32". Throws as above.
  static std::string NameOfKernel(DType dtype, int64_t head_dim, bool allow_fallback);
  std::string KernelName() const { return NameOfKernel(size_.dtype, size_.head_dim, true); }
  // 256-byte aligned scratch for either call; contents need not be kept between them.
  size_t ScratchBytes() const;
  size_t ForwardScratchBytes() const;  // enough for Forward alone

  void Forward(Stream& stream, const SepAttentionTensors& tensors, void* scratch) const;
  void Backward(Stream& stream, const SepAttentionTensors& tensors, void* scratch) const;

 private:
  SepAttentionParams Bind(const SepAttentionTensors& tensors, void* scratch) const;

  SepAttentionSize size_;
  SepAttentionParams params_ = {};
  const SepAttentionKernels* kernels_;
};

}  // namespace sepia::kernels::cuda
