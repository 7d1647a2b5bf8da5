// Dense causal attention by cuDNN (scaled dot-product attention through its graph interface), for
// full-attention layers: an alternative to Sepia's own kernels (sep_attention.h), which are always
// there. On the emulated device a stand-in of the library (emulation/libraries/cudnn_graph.h)
// computes the same graph on the host and refuses what the library's documentation refuses.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/sep_attention.h"

namespace sepia::kernels::cuda {

struct DnnAttentionOptions {
  // Backward without atomic sums: the same bits every time. On Ampere and Hopper cuDNN then keeps
  // 2 bytes of every score in its workspace: B H T^2 elements.
  bool deterministic = true;
  // What a plan may take at most.
  int64_t max_workspace_bytes = int64_t{2} << 30;
  // Plans for a GPU that is not there, described as cuDNN does it (deviceless compilation): such
  // plans can be made and examined, not run. Empty: the device in use.
  std::string device_json = {};
};

// bf16 or f16, D % 8 == 0 up to 128; qkv [B, T, H, 3, D], out and dout [B, T, H, D], lse [B, H, T]
// fp32 natural logarithms, as in kernels/sep_attention.h, so that either implementation can do
// the backward of the other's forward. Window and kind of `size` do not count: all is causal.
class DnnAttention {
 public:
  // Makes the plans: cuDNN's heuristics' first engine that finalizes, is deterministic if asked and
  // fits the workspace. Throws UserError(kEnvironment), with cuDNN's own words, when there is none.
  explicit DnnAttention(const SepAttentionSize& size, const DnnAttentionOptions& options = {});
  ~DnnAttention();
  DnnAttention(const DnnAttention&) = delete;
  DnnAttention& operator=(const DnnAttention&) = delete;

  // "cuDNN 9.19.0 SDPA bf16 D=64, deterministic": for the header block.
  std::string KernelName() const;
  // 256-byte aligned scratch for either call.
  size_t ScratchBytes() const;

  void Forward(Stream& stream, const SepAttentionTensors& tensors, void* scratch);
  void Backward(Stream& stream, const SepAttentionTensors& tensors, void* scratch);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "cuDNN 9.19.0", "cuDNN's stand-in on the host" or why there is none.
std::string DnnName();

}  // namespace sepia::kernels::cuda
