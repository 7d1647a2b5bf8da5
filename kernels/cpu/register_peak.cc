#include "kernels/cpu/register_peak.h"

#include <numeric>
#include <vector>

#include "base/clock.h"
#include "base/philox.h"
#include "kernels/cpu/bf16_loops.h"
#include "kernels/cpu/isa/fma_loop.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels::cpu {
namespace {

// Full mantissas, no zeros, signs at random if wanted.
std::vector<float> RandomOperands(int64_t size, bool with_signs) {
  const PhiloxStream values(1, "peak");
  const PhiloxStream signs(1, "signs");
  std::vector<float> operands;
  for (int64_t i = 0; i < size; ++i) {
    const auto at = static_cast<uint64_t>(i);
    const float value = 0.5f + 0.5f * values.Uniform(at);
    operands.push_back(with_signs && signs.Uniform(at) < 0.5f ? -value : value);
  }
  return operands;
}

struct Operands {
  std::vector<float> fp32 = RandomOperands(48, /*with_signs=*/false);
  std::vector<BFloat16> bf16;

  Operands() {
    for (const float value : RandomOperands(2048, /*with_signs=*/true)) bf16.emplace_back(value);
  }
};

int64_t RunLoop(Isa isa, const Operands& operands, float* sink) {
  switch (isa) {  // rounds of about 3 ms
    case Isa::kAvx2: return avx2::FmaLoop(500'000, operands.fp32.data(), sink);
    case Isa::kAvx512: return avx512::FmaLoop(500'000, operands.fp32.data(), sink);
    case Isa::kAvx512Bf16: return Dpbf16Loop(400'000, operands.bf16.data(), sink);
    case Isa::kAmx: return TileLoop(100'000, operands.bf16.data(), sink);
  }
  return 0;
}

}  // namespace

double RegisterPeakGflops(Isa isa, int num_threads) {
  static const Operands operands;
  // One rate a thread, so that a late start of one does not count against the others.
  std::vector<double> rates(static_cast<size_t>(num_threads));
  std::vector<float> sinks(static_cast<size_t>(num_threads));
#pragma omp parallel num_threads(num_threads)
  {
    const auto thread = static_cast<size_t>(ThreadIndex());
#pragma omp barrier
    const Timer timer;
    const int64_t flops = RunLoop(isa, operands, &sinks[thread]);
    rates[thread] = static_cast<double>(flops) / timer.Seconds() / 1e9;
  }
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace sepia::kernels::cpu
