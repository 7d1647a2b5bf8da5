// What the files that call the CUDA run time share.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

inline void Check(cudaError_t status, const char* call, const Where& where) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string(call) + ": " + cudaGetErrorString(status), where);
}

inline cudaStream_t Handle(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.handle());
}

}  // namespace sepia::kernels::cuda
