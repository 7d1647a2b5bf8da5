#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "base/check.h"
#include "base/error.h"

namespace sepia::kernels::cpu {
namespace {

struct Registers {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers Cpuid(unsigned int leaf, unsigned int subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool Bit(unsigned int word, int bit) { return ((word >> bit) & 1u) != 0; }

// Register state that the operating system saves. CPUID.1.ECX bit 27 must be set.
uint64_t ExtendedControlRegister() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

Isa BestIsa() {
  const CpuFeatures features = DetectCpuFeatures();
  if (!features.avx2) {
    throw UserError(ExitCode::kEnvironment,
                    "this processor lacks AVX2, FMA or F16C (x86-64-v3), which Sepia needs");
  }
  return features.avx512 ? Isa::kAvx512 : Isa::kAvx2;
}

Isa IsaFromEnvironment() {
  const Isa best = BestIsa();
  const char* limit = std::getenv("SEPIA_MAX_ISA");
  if (limit == nullptr || *limit == '\0') return best;
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    if (limit == IsaName(isa)) return isa < best ? isa : best;
  }
  throw UserError(fmt::format("SEPIA_MAX_ISA={}: unknown; use avx2 or avx512", limit));
}

std::atomic<Isa>& CurrentIsa() {
  static std::atomic<Isa> isa = IsaFromEnvironment();
  return isa;
}

}  // namespace

CpuFeatures DetectCpuFeatures() {
  // Bit numbers: Intel SDM volume 2, CPUID; volume 1, 13.3 for XCR0.
  CpuFeatures features;
  const Registers leaf1 = Cpuid(1, 0);
  if (!Bit(leaf1.ecx, 27)) return features;  // OSXSAVE
  const uint64_t xcr0 = ExtendedControlRegister();
  const bool ymm_state = (xcr0 & 0x6) == 0x6;
  const bool zmm_state = (xcr0 & 0xe6) == 0xe6;
  const bool tile_state = (xcr0 & 0x60000) == 0x60000;
  const Registers leaf7 = Cpuid(7, 0);
  const Registers leaf7_1 = leaf7.eax >= 1 ? Cpuid(7, 1) : Registers{};
  const bool fma_movbe_f16c = Bit(leaf1.ecx, 12) && Bit(leaf1.ecx, 22) && Bit(leaf1.ecx, 29);
  const bool bmi = Bit(leaf7.ebx, 3) && Bit(leaf7.ebx, 8);
  features.avx2 = ymm_state && Bit(leaf1.ecx, 28) && fma_movbe_f16c && bmi && Bit(leaf7.ebx, 5);
  features.avx512 = features.avx2 && zmm_state && Bit(leaf7.ebx, 16) && Bit(leaf7.ebx, 17) &&
                    Bit(leaf7.ebx, 28) && Bit(leaf7.ebx, 30) && Bit(leaf7.ebx, 31);
  features.avx512_bf16 = features.avx512 && Bit(leaf7_1.eax, 5);
  features.amx_bf16 = features.avx512 && tile_state && Bit(leaf7.edx, 24) && Bit(leaf7.edx, 22);
  return features;
}

std::string_view IsaName(Isa isa) { return isa == Isa::kAvx512 ? "avx512" : "avx2"; }

Isa ActiveIsa() { return CurrentIsa().load(std::memory_order_relaxed); }

ScopedIsa::ScopedIsa(Isa isa) : previous_(ActiveIsa()) {
  CHECK(isa <= BestIsa(), "this machine lacks {}", IsaName(isa));
  CurrentIsa().store(isa, std::memory_order_relaxed);
}

ScopedIsa::~ScopedIsa() { CurrentIsa().store(previous_, std::memory_order_relaxed); }

}  // namespace sepia::kernels::cpu
