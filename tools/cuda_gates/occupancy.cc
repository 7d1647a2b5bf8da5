// occupancy KERNEL DIM REGISTERS: threads, shared bytes and blocks per multiprocessor of A100 and
// H100, by NVIDIA's own calculator. Built by cuda_gates against the kernels' shapes.
#include <cuda_occupancy.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/sep_dkv.cuh"
#include "kernels/cuda/sep_dq.cuh"
#include "kernels/cuda/sep_forward.cuh"

namespace {

using namespace sepia::kernels::cuda;  // NOLINT: a tool of one file

struct Shape {
  int threads, shared_bytes;
};

template <int kDim>
Shape ShapeOf(const char* kernel) {
  if (std::strcmp(kernel, "SepForward") == 0) {
    return {ForwardShape<kDim>::kThreads, ForwardShape<kDim>::kSharedBytes};
  }
  if (std::strcmp(kernel, "SepDq") == 0) {
    return {DqShape<kDim>::kThreads, DqShape<kDim>::kSharedBytes};
  }
  return {DkvShape<kDim>::kThreads, DkvShape<kDim>::kSharedBytes};
}

Shape ShapeOf(const char* kernel, int dim) {
  switch (dim) {
    case 32: return ShapeOf<32>(kernel);
    case 64: return ShapeOf<64>(kernel);
    case 80: return ShapeOf<80>(kernel);
    case 128: return ShapeOf<128>(kernel);
    default: return ShapeOf<256>(kernel);
  }
}

// Shared memory: CUDA programming guide, technical specifications per compute capability.
int BlocksPerMultiprocessor(bool is_h100, const Shape& shape, int registers) {
  cudaOccDeviceProp device;
  device.computeMajor = is_h100 ? 9 : 8;
  device.computeMinor = 0;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = 2048;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 << 10;
  device.sharedMemPerMultiprocessor = (is_h100 ? 228 : 164) << 10;
  device.sharedMemPerBlockOptin = (is_h100 ? 227 : 163) << 10;
  device.reservedSharedMemPerBlock = 1024;
  device.numSms = is_h100 ? 132 : 108;
  cudaOccFuncAttributes function;
  function.maxThreadsPerBlock = 1024;
  function.numRegs = registers;
  function.sharedSizeBytes = 0;
  function.partitionedGCConfig = PARTITIONED_GC_OFF;
  function.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  function.maxDynamicSharedSizeBytes = static_cast<size_t>(shape.shared_bytes);
  function.numBlockBarriers = 1;
  cudaOccDeviceState state;
  state.carveoutConfig = 100;
  cudaOccResult result;
  const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(
      &result, &device, &function, &state, shape.threads, static_cast<size_t>(shape.shared_bytes));
  return error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const Shape shape = ShapeOf(argv[1], std::atoi(argv[2]));
  const int registers = std::atoi(argv[3]);
  std::printf("%d %d %d %d\n", shape.threads, shape.shared_bytes,
              BlocksPerMultiprocessor(false, shape, registers),
              BlocksPerMultiprocessor(true, shape, registers));
}
