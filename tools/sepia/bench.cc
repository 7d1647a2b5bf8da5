#include "tools/sepia/bench.h"

#include <algorithm>
#include <iostream>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/clock.h"
#include "tools/sepia/choice_option.h"
#include "tools/sepia/command.h"

namespace sepia::tools {

void AddDTypesOption(CLI::App& command, std::vector<DType>& dtypes) {
  AddChoicesOption<DType>(command, "--dtype", dtypes,
                          {{"f32", DType::kFloat32},
                           {"fp32", DType::kFloat32},
                           {"bf16", DType::kBFloat16},
                           {"f16", DType::kFloat16},
                           {"fp16", DType::kFloat16}},
                          fmt::format("default: {}", std::string(DTypeName(dtypes.front()))));
}

void AddThreadsOption(CLI::App& command, std::vector<int>& threads) {
  command.add_option("--threads", threads, "threads")
      ->capture_default_str()
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1024));
}

void AddRepeatsOption(CLI::App& command, int& repeats) {
  command.add_option("--repeats", repeats, "the median is reported")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
}

kernels::cpu::Isa PeakIsa(DType dtype) {
  const kernels::cpu::Isa active = kernels::cpu::ActiveIsa();
  return dtype == DType::kBFloat16 ? active : std::min(active, kernels::cpu::Isa::kAvx512);
}

Spread Summarize(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {.median = median, .min = values.front(), .max = values.back()};
}

void RunRounds(int count, bool paced, size_t num_variants,
               const std::function<std::vector<double>()>& round) {
  const auto print = [](const nlohmann::json& line) { std::cout << line.dump() << std::endl; };
  if (paced) print({{"ready", num_variants}});
  std::string line;
  for (int i = 0; i < count && (!paced || std::getline(std::cin, line)); ++i) {
    const std::vector<double> seconds = round();
    if (paced) print({{"seconds", seconds}});
  }
}

void AddPacedOption(CLI::App& command, bool& paced) {
  command.add_flag("--paced", paced,
                   "measure once each time a line arrives on stdin and answer with the seconds, to "
                   "alternate with another program");
}

double TimeOnce(const std::function<void()>& run) {
  const Timer timer;
  run();
  return timer.Seconds();
}

void AddBenchCommand(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "verify, then measure, one part of Sepia");
  bench->require_subcommand(1);
  bench->footer("Example:\n  sepia bench step --model pythia-70m --dtype bf16 --attention sep");
  AddBenchAttentionCommand(*bench);
  AddBenchCheckpointCommand(*bench);
  AddBenchCollectiveCommands(*bench);
  AddBenchGemmCommand(*bench);
  AddBenchRooflineCommand(*bench);
  AddBenchStepCommand(*bench);
  AddBenchTokenizerCommand(*bench);
}

}  // namespace sepia::tools
