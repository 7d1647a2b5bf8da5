// What this machine can run, and the instruction set that Sepia's own vector code uses on it.
#pragma once

#include <string_view>
#include <vector>

namespace sepia::kernels::cpu {

struct CpuFeatures {
  bool avx2 = false;         // x86-64-v3: AVX2, FMA, F16C; Sepia's floor
  bool avx512 = false;       // x86-64-v4: AVX-512 F, BW, CD, DQ, VL
  bool avx512_bf16 = false;  // vdpbf16ps
  bool amx_bf16 = false;     // tile products of bf16; tiles also need a permit (RunnableIsas)
  bool fast_dpbf16 = false;  // vdpbf16ps does more than fp32 FMA: AMD family 19h (Zen 4), 1Ah
};

// By CPUID and XGETBV: a feature counts when both processor and operating system have it.
CpuFeatures DetectCpuFeatures();

// What Sepia's own kernels can be told to use, in ascending order. Each level includes the ones
// before it: kernels without code of their own for a level run that of the next lower one.
enum class Isa {
  kAvx2,
  kAvx512,
  kAvx512Bf16,  // dot products of bf16 pairs (vdpbf16ps)
  kAmx          // tile products of bf16
};

// "avx2", "avx512", "avx512_bf16", "amx".
std::string_view IsaName(Isa isa);

// Every level that this machine can run. For kAmx the operating system has been asked for tiles.
std::vector<Isa> RunnableIsas();

// The fastest one of this machine, at most SEPIA_MAX_ISA when that is set; read once. kAvx512Bf16
// counts only on processors listed as doing vdpbf16ps faster than fp32 FMA: never a question of
// timing, so that two runs take the same path. Throws UserError for an unknown name, and on a
// machine below the floor.
Isa ActiveIsa();

// For tests and benches: every call in its scope runs on `isa`, one of RunnableIsas(). Not
// thread-safe.
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
