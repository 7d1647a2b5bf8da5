#include "tools/sepia/memory_speed.h"

#include <vector>

#include "kernels/cpu/parallel.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/random_tensor.h"

namespace sepia::tools {

double MemoryGbPerSecond(int num_threads) {
  constexpr int64_t kElements = int64_t{1} << 26;  // 256 MiB an array
  constexpr int64_t kGrain = 1 << 16;
  const OwnedTensor from = RandomTensor("bandwidth", DType::kFloat32, {kElements});
  const OwnedTensor to(DType::kFloat32, {kElements});
  const kernels::Context ctx = {.num_threads = num_threads};
  const auto scale = [&] {
    kernels::cpu::ParallelForRange(ctx, kElements, kGrain, [&](int64_t begin, int64_t end) {
      const float* x = from.data<float>();
      float* y = to.data<float>();
      for (int64_t i = begin; i < end; ++i) y[i] = 0.5f * x[i] + y[i];
    });
  };
  std::vector<double> rates;
  for (int i = 0; i < 6; ++i) {
    // Two reads and a write.
    rates.push_back(3 * 4 * static_cast<double>(kElements) / TimeOnce(scale) / 1e9);
  }
  return Summarize({rates.begin() + 1, rates.end()}).median;  // the first touches the pages
}

}  // namespace sepia::tools
