#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/error.h"

namespace sepia::kernels::cpu {
namespace {

constexpr Isa kAllIsas[] = {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};
constexpr std::string_view kIsaNames[] = {"avx2", "avx512", "avx512_bf16", "amx"};

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

// Linux hands out the tile registers on request, once per process (arch_prctl(2)); threads that
// exist already are included. Refused by kernels before 5.16 and by some virtual machines.
bool RequestTiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

// AMD multiplies bf16 pairs at twice its fp32 rate from Zen 4 on. Measured on Sapphire Rapids: half
// the fp32 rate (88 against 179 GFLOP/s a core).
bool HasFastDpbf16(const Registers& leaf0, const Registers& leaf1) {
  const bool amd = leaf0.ebx == signature_AMD_ebx && leaf0.ecx == signature_AMD_ecx &&
                   leaf0.edx == signature_AMD_edx;
  const unsigned int base_family = (leaf1.eax >> 8) & 0xf;
  const unsigned int family = base_family == 0xf ? 0xf + ((leaf1.eax >> 20) & 0xff) : base_family;
  return amd && (family == 0x19 || family == 0x1a);
}

Isa BestIsa() {
  const std::vector<Isa> isas = RunnableIsas();
  if (isas.empty()) {
    throw UserError(ExitCode::kEnvironment,
                    "this processor lacks AVX2, FMA or F16C (x86-64-v3), which Sepia needs");
  }
  return isas.back();
}

// `isa`, or the next lower level if it is not a good choice on this machine.
Isa Preferred(Isa isa) {
  return isa == Isa::kAvx512Bf16 && !DetectCpuFeatures().fast_dpbf16 ? Isa::kAvx512 : isa;
}

Isa IsaFromEnvironment() {
  const Isa best = BestIsa();
  const char* limit = std::getenv("SEPIA_MAX_ISA");
  if (limit == nullptr || *limit == '\0') return Preferred(best);
  for (const Isa isa : kAllIsas) {
    if (limit == IsaName(isa)) return Preferred(std::min(isa, best));
  }
  throw UserError(
      fmt::format("SEPIA_MAX_ISA={}: unknown; use one of {}", limit, fmt::join(kIsaNames, ", ")));
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
  features.fast_dpbf16 = features.avx512_bf16 && HasFastDpbf16(Cpuid(0, 0), leaf1);
  features.amx_bf16 = features.avx512 && tile_state && Bit(leaf7.edx, 24) && Bit(leaf7.edx, 22);
  return features;
}

std::string_view IsaName(Isa isa) { return kIsaNames[static_cast<size_t>(isa)]; }

std::vector<Isa> RunnableIsas() {
  const CpuFeatures features = DetectCpuFeatures();
  std::vector<Isa> isas;
  if (features.avx2) isas.push_back(Isa::kAvx2);
  if (features.avx512) isas.push_back(Isa::kAvx512);
  if (features.avx512_bf16) isas.push_back(Isa::kAvx512Bf16);
  if (features.avx512_bf16 && features.amx_bf16 && RequestTiles()) isas.push_back(Isa::kAmx);
  return isas;
}

Isa ActiveIsa() { return CurrentIsa().load(std::memory_order_relaxed); }

ScopedIsa::ScopedIsa(Isa isa) : previous_(ActiveIsa()) {
  const std::vector<Isa> isas = RunnableIsas();
  CHECK(std::find(isas.begin(), isas.end(), isa) != isas.end(), "this machine lacks {}",
        IsaName(isa));
  CurrentIsa().store(isa, std::memory_order_relaxed);
}

ScopedIsa::~ScopedIsa() { CurrentIsa().store(previous_, std::memory_order_relaxed); }

}  // namespace sepia::kernels::cpu
