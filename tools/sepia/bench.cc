#include "tools/sepia/bench.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "kernels/cpu/isa/fma_loop.h"
#include "kernels/cpu/parallel.h"
#include "tools/sepia/choice_option.h"
#include "tools/sepia/command.h"

namespace sepia::tools {

void AddDTypeOption(CLI::App& command, DType& dtype) {
  AddChoiceOption<DType>(command, "--dtype", dtype,
                         {{"f32", DType::kFloat32},
                          {"fp32", DType::kFloat32},
                          {"bf16", DType::kBFloat16},
                          {"f16", DType::kFloat16},
                          {"fp16", DType::kFloat16}},
                         fmt::format("default: {}", std::string(DTypeName(dtype))));
}

Spread Summarize(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {.median = median, .min = values.front(), .max = values.back()};
}

double TimeOnce(const std::function<void()>& run) {
  const Timer timer;
  run();
  return timer.Seconds();
}

double Fp32PeakGflops(int num_threads) {
  constexpr int64_t kRounds = 1'000'000;  // some milliseconds
  const kernels::Context ctx = {.num_threads = num_threads};
  std::vector<float> sinks(static_cast<size_t>(num_threads));
  std::vector<int64_t> flops(static_cast<size_t>(num_threads));
  const Timer timer;
  kernels::cpu::ParallelFor(ctx, num_threads, [&](int64_t thread) {
    const auto at = static_cast<size_t>(thread);
    flops[at] = SEPIA_BY_ISA(FmaLoop)(kRounds, &sinks[at]);
  });
  const double seconds = timer.Seconds();
  double total = 0;
  for (const int64_t count : flops) total += static_cast<double>(count);
  return total / seconds / 1e9;
}

void AddBenchCommand(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "verify, then measure, one part of Sepia");
  bench->require_subcommand(1);
  bench->footer("Example:\n  sepia bench step --model pythia-70m --dtype bf16 --attention sep");
  AddBenchAttentionCommand(*bench);
  AddBenchGemmCommand(*bench);
  AddBenchStepCommand(*bench);
  AddBenchTokenizerCommand(*bench);
}

}  // namespace sepia::tools
