// What this machine can run, and the instruction set that Sepia's own vector code uses on it.
#pragma once

#include <string_view>

namespace sepia::kernels::cpu {

struct CpuFeatures {
  bool avx2 = false;         // x86-64-v3: AVX2, FMA, F16C; Sepia's floor
  bool avx512 = false;       // x86-64-v4: AVX-512 F, BW, CD, DQ, VL
  bool avx512_bf16 = false;  // vdpbf16ps
  bool amx_bf16 = false;     // tile products of bf16; tiles also need a permit from the kernel
};

// By CPUID and XGETBV: a feature counts when both processor and operating system have it.
CpuFeatures DetectCpuFeatures();

// Instruction sets that the files of kernels/cpu/isa are compiled for, in ascending order.
enum class Isa { kAvx2, kAvx512 };

// "avx2", "avx512".
std::string_view IsaName(Isa isa);

// The best one of this machine, at most SEPIA_MAX_ISA ("avx2" or "avx512") when that is set; read
// once. Throws UserError for an unknown name, and on a machine below the floor.
Isa ActiveIsa();

// For tests: every call in its scope runs on `isa`, which the machine must have. Not thread-safe.
class ScopedIsa {
 public:
  explicit ScopedIsa(Isa isa);
  ~ScopedIsa();
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  Isa previous_;
};

}  // namespace sepia::kernels::cpu
