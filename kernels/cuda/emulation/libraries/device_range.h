// What the stand-ins of NVIDIA's libraries share: memory they read and write must be on the device,
// elements widen to fp32 and round once.
#pragma once

#include <bit>
#include <cstdint>
#include <string>

#include "base/dtype.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/libraries/runtime_types.h"

namespace sepia::kernels::cuda::emulation {

// Throws Fault unless all bytes lie in one allocation of the emulated device.
inline void RequireOnDevice(const char* who, const char* what, const void* address,
                            size_t num_bytes) {
  if (num_bytes == 0 || GlobalMemory::Get().Contains(address, num_bytes)) return;
  throw Fault(std::string(who) + ": " + what + " is not inside one device allocation");
}

inline size_t ElementSize(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

inline float LoadElement(cudaDataType_t type, const void* base, int64_t index) {
  if (type == CUDA_R_32F) return static_cast<const float*>(base)[index];
  const uint16_t bits = static_cast<const uint16_t*>(base)[index];
  return type == CUDA_R_16BF ? std::bit_cast<float>(uint32_t{bits} << 16) : Float16::ToFloat(bits);
}

inline void StoreElement(cudaDataType_t type, void* base, int64_t index, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(base)[index] = value;
  } else {
    static_cast<uint16_t*>(base)[index] =
        type == CUDA_R_16BF ? BFloat16::FromFloat(value) : Float16::FromFloat(value);
  }
}

}  // namespace sepia::kernels::cuda::emulation
