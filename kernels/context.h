// Where an op runs: device, threads, scratch memory. Passed to every op; ops only enqueue.
//
// Tensors and scratch of a call live on `device`. The cpu backend runs an op before it returns; the
// cuda backend enqueues it in order with all others and with base/device_memory.h's copies. Results
// do not depend on num_threads. One Context is used by one thread at a time.
#pragma once

#include <cstdint>

#include "base/arena.h"
#include "base/tensor.h"

namespace sepia::kernels {

// Who serves layers of full attention on a GPU: Sepia's kernels or cuDNN's.
enum class FullAttention : uint8_t { kOwn, kCudnn };

struct Context {
  Device device = Device::kCpu;
  int num_threads = 1;
  Arena* scratch = nullptr;    // ops give back what they take
  bool allow_fallback = true;  // false: UserError where only a slow general kernel would serve
  FullAttention full_attention = FullAttention::kOwn;
};

// Threads the process may use: OMP_NUM_THREADS if set, else the affinity mask.
int DefaultNumThreads();

}  // namespace sepia::kernels
