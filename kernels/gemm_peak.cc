#include "kernels/gemm_peak.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/clock.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace sepia::kernels {
namespace {

struct Product {
  int64_t m, n, k;
};

// Layers of about the size of pythia-160m, -410m and -1b on one sequence.
constexpr Product kProducts[] = {{2048, 3072, 768}, {2048, 1024, 4096}, {1024, 2048, 2048}};
constexpr double kSecondsEach = 0.1;

// Values in [-1, 1): zeros would be unfair, they cost less power.
OwnedTensor Operand(Context& ctx, DType dtype, int64_t rows, int64_t cols) {
  const OwnedTensor values(DType::kFloat32, {rows, cols});
  float* value = values.data<float>();
  for (int64_t i = 0; i < rows * cols; ++i) {
    value[i] = static_cast<float>(i * 7919 % 2048 - 1024) / 1024.0f;
  }
  OwnedTensor operand(dtype, {rows, cols});
  Cast(ctx, values, operand);
  return operand;
}

double BestGflops(const Product& product, DType dtype, int num_threads) {
  const auto [m, n, k] = product;
  Arena scratch("gemm peak", LinearScratchBytes(m, n, k, dtype, num_threads));
  Context ctx{.num_threads = num_threads, .scratch = &scratch};
  const OwnedTensor x = Operand(ctx, dtype, m, k);
  const OwnedTensor w = Operand(ctx, dtype, n, k);
  const OwnedTensor y(dtype, {m, n});
  const Weight weight{.canonical = w};
  const LinearForwardArgs args{.x = x, .weight = weight, .bias = {}, .y = y};
  LinearForward(ctx, args);  // touches the pages, makes the primitives
  double best_seconds = 1e30;
  const Timer total;
  do {
    const Timer timer;
    LinearForward(ctx, args);
    best_seconds = std::min(best_seconds, timer.Seconds());
  } while (total.Seconds() < kSecondsEach);
  return 2e-9 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) /
         best_seconds;
}

}  // namespace

double MeasureGemmPeakGflops(DType dtype, int num_threads) {
  double best = 0.0;
  for (const Product& product : kProducts) {
    best = std::max(best, BestGflops(product, dtype, num_threads));
  }
  return best;
}

}  // namespace sepia::kernels
