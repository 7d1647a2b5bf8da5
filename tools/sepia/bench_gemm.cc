// sepia bench gemm: one linear layer, y = x W^T.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "base/buffer.h"
#include "base/error.h"
#include "base/philox.h"
#include "kernels/elementwise.h"
#include "kernels/gemm_peak.h"
#include "kernels/linear.h"
#include "tools/sepia/bench.h"

namespace sepia::tools {
namespace {

struct Options {
  int64_t m = 2048;
  int64_t n = 3072;
  int64_t k = 768;
  std::vector<DType> dtypes = {DType::kFloat32};
  int threads = 1;
  int repeats = 9;
};

// Normal values, rounded to the dtype, and the same values in fp32.
struct Matrix {
  Matrix(kernels::Context& ctx, const char* name, DType dtype, const Shape& shape)
      : tensor(dtype, shape), values(DType::kFloat32, shape) {
    const PhiloxStream random(1, name);
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      values.data<float>()[i] = random.Normal(static_cast<uint64_t>(i));
    }
    kernels::Cast(ctx, values, tensor);
    kernels::Cast(ctx, tensor, values);
  }
  OwnedTensor tensor;
  OwnedTensor values;
};

// Compares elements of y, spread over all of it, with sums in double: fp32 sums of k terms are
// within (k + 2) 2^-24 of the sum of magnitudes, and y rounds once more.
void Verify(kernels::Context& ctx, const Options& o, DType dtype, const Matrix& x, const Matrix& w,
            const OwnedTensor& y) {
  const OwnedTensor values(DType::kFloat32, y.view().shape());
  kernels::Cast(ctx, y, values);
  const double rounding = dtype == DType::kBFloat16  ? 0x1p-8
                          : dtype == DType::kFloat16 ? 0x1p-11
                                                     : 0x1p-24;
  constexpr int64_t kSamples = 4096;
  const int64_t size = o.m * o.n;
  const int64_t stride = std::max<int64_t>(1, size / kSamples) | 1;
  for (int64_t i = 0; i < size; i += stride) {
    double sum = 0.0;
    double magnitude = 0.0;
    for (int64_t p = 0; p < o.k; ++p) {
      const double term = static_cast<double>(x.values.data<float>()[i / o.n * o.k + p]) *
                          static_cast<double>(w.values.data<float>()[i % o.n * o.k + p]);
      sum += term;
      magnitude += std::abs(term);
    }
    const double bound = static_cast<double>(o.k + 2) * 0x1p-24 * magnitude +
                         rounding * (std::abs(sum) + magnitude * 1e-4);
    const double error = std::abs(static_cast<double>(values.data<float>()[i]) - sum);
    if (!(error <= bound)) {
      throw Error(ExitCode::kInternal, fmt::format("element [{}, {}] is wrong by {}, more than {}",
                                                   i / o.n, i % o.n, error, bound));
    }
  }
}

void RunBenchGemm(const Options& o, DType dtype) {
  Arena scratch("scratch", kernels::LinearScratchBytes(o.m, o.n, o.k, dtype, o.threads));
  kernels::Context ctx{.num_threads = o.threads, .scratch = &scratch};
  const Matrix x(ctx, "x", dtype, {o.m, o.k});
  const Matrix w(ctx, "w", dtype, {o.n, o.k});
  const OwnedTensor y(dtype, {o.m, o.n});
  const kernels::Weight weight{.canonical = w.tensor};
  const auto run = [&] {
    kernels::LinearForward(ctx, {.x = x.tensor, .weight = weight, .bias = {}, .y = y});
  };
  run();
  Verify(ctx, o, dtype, x, w, y);

  std::vector<double> seconds;
  for (int i = 0; i < o.repeats; ++i) seconds.push_back(TimeOnce(run));
  const Spread spread = Summarize(seconds);
  const double work =
      2e-9 * static_cast<double>(o.m) * static_cast<double>(o.n) * static_cast<double>(o.k);
  const double peak = kernels::MeasureGemmPeakGflops(dtype, o.threads);
  const nlohmann::ordered_json result = {
      {"bench", "gemm"},
      {"m", o.m},
      {"n", o.n},
      {"k", o.k},
      {"dtype", std::string(DTypeName(dtype))},
      {"threads", o.threads},
      {"repeats", o.repeats},
      {"seconds", spread.median},
      {"min_s", spread.min},
      {"max_s", spread.max},
      {"gflops", work / spread.median},
      {"peak_gflops", peak},
      {"peak_share", work / spread.median / peak},
      {"backend", kernels::LinearBackendName(dtype)},
  };
  std::cout << result.dump() << std::endl;
}

}  // namespace

void AddBenchGemmCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("gemm", "speed of a linear layer, y = x W^T");
  command->add_option("--m", o->m, "rows of x: tokens")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--n", o->n, "outputs: rows of W")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--k", o->k, "inputs: columns of x and W")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  AddDTypesOption(*command, o->dtypes);
  command->add_option("--threads", o->threads, "threads")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option("--repeats", o->repeats, "the median is reported")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  command->footer(
      "Compares sampled elements with sums in double before anything is timed. peak_gflops is\n"
      "the best speed of the same op over some shapes of training.\n\n"
      "Example:\n  sepia bench gemm --m 2048 --n 3072 --k 768 --dtype bf16 --threads 2");
  command->final_callback([o] {
    for (const DType dtype : o->dtypes) RunBenchGemm(*o, dtype);
  });
}

}  // namespace sepia::tools
