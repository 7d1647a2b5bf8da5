// sepia bench roofline: what bounds a training step on this machine, part by part.
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/cpu/register_peak.h"
#include "model/model_config.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/memory_speed.h"
#include "trainer/config.h"
#include "trainer/step_work.h"

namespace sepia::tools {
namespace {

struct Options {
  std::vector<std::string> models = model::PresetNames();
  int64_t seq = 2048;
  int64_t micro = 1;
  int64_t window = 64;
  double density = 0.16;
  std::vector<DType> dtypes = {DType::kBFloat16};
  std::vector<int> threads = {2};
};

trainer::TrainSettings Settings(const Options& o, const std::string& model, DType dtype) {
  return trainer::LoadConfigText(
             "", "bench roofline",
             {fmt::format("model.preset=\"{}\"", model), "model.attention.kind=SEP",
              fmt::format("model.attention.window={}", o.window),
              fmt::format("model.max_positions={}", std::max<int64_t>(2048, o.seq)),
              fmt::format("precision={}", dtype == DType::kBFloat16 ? "BF16" : "FP32"),
              fmt::format("data.sequence_length={}", o.seq), fmt::format("batch.micro={}", o.micro),
              fmt::format("batch.global={}", o.micro)},
             {.ranks = 1, .for_training = false})
      .settings;
}

// Of all threads.
struct Rates {
  double gflops, gb_per_s;

  // With both units busy all the time.
  double Seconds(const trainer::WorkPart& part) const {
    return std::max(part.flops / gflops, part.bytes / gb_per_s) / 1e9;
  }
};

nlohmann::ordered_json Report(const Options& o, const std::string& model, DType dtype,
                              int num_threads, const Rates& rates) {
  const trainer::StepWork work =
      trainer::WorkOfRank(Settings(o, model, dtype), /*data_ranks=*/1, o.density);
  nlohmann::ordered_json lines;
  trainer::WorkPart all = {"all", 0, 0};
  double seconds = 0;
  for (const trainer::WorkPart& part : work.parts()) {
    const double part_seconds = rates.Seconds(part);
    lines.push_back(
        {{"part", part.name},
         {"gflop", part.flops / 1e9},
         {"gbytes", part.bytes / 1e9},
         {"intensity", part.intensity()},
         {"bound",
          part.flops / rates.gflops > part.bytes / rates.gb_per_s ? "arithmetic" : "memory"},
         {"least_s", part_seconds}});
    all.flops += part.flops;
    all.bytes += part.bytes;
    seconds += part_seconds;
  }
  return {{"bench", "roofline"},
          {"model", model},
          {"seq", o.seq},
          {"micro", o.micro},
          {"window", o.window},
          {"density", o.density},
          {"dtype", std::string(DTypeName(dtype))},
          {"threads", num_threads},
          {"peak_gflops", rates.gflops},
          {"gb_per_s", rates.gb_per_s},
          {"balance", rates.gflops / rates.gb_per_s},
          {"gflop", all.flops / 1e9},
          {"gbytes", all.bytes / 1e9},
          {"intensity", all.intensity()},
          {"least_s", seconds},
          {"parts", lines}};
}

Rates MeasureRates(DType dtype, int num_threads) {
  std::vector<double> peaks;
  for (int i = 0; i < 9; ++i) {
    peaks.push_back(kernels::cpu::RegisterPeakGflops(PeakIsa(dtype), num_threads));
  }
  return {Summarize(peaks).median, MemoryGbPerSecond(num_threads)};
}

void RunBenchRoofline(const Options& o) {
  for (const DType dtype : o.dtypes) {
    for (const int num_threads : o.threads) {
      const Rates rates = MeasureRates(dtype, num_threads);
      for (const std::string& model : o.models) {
        std::cout << Report(o, model, dtype, num_threads, rates).dump() << std::endl;
      }
    }
  }
}

}  // namespace

void AddBenchRooflineCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("roofline", "what bounds a training step on this machine");
  command->add_option("--model", o->models, "presets (default: all)")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--seq", o->seq, "tokens a sequence")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--micro", o->micro, "sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command->add_option("--window", o->window, "keys in the window, own included")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--density", o->density, "share of separators")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  AddDTypesOption(*command, o->dtypes);
  AddThreadsOption(*command, o->threads);
  command->footer(
      "Measures arithmetic on registers and a pass over memory, then computes for each part of a\n"
      "step of SepLLM attention how many operations it needs and how many bytes it must move at\n"
      "least (each operand once). intensity is operations a byte; below balance a part is bound "
      "by\n"
      "memory. least_s adds up the larger of both times of each part.\n\n"
      "Example:\n  sepia bench roofline --model pythia-160m --dtype bf16,fp32 --threads 2");
  command->final_callback([o] { RunBenchRoofline(*o); });
}

}  // namespace sepia::tools
