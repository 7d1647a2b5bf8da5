// sepia bench gemm: linear layers, y = x W^T, and their gradients.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/cpu/register_peak.h"
#include "kernels/linear.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/linear_workload.h"
#include "trainer/config.h"

namespace sepia::tools {
namespace {

struct Options {
  LinearLayer layer = {.name = "given", .m = 2048, .n = 3072, .k = 768};
  std::string model;
  int64_t seq = 2048;
  int64_t micro = 1;
  std::vector<DType> dtypes = {DType::kFloat32};
  std::vector<int> threads = {1};
  int repeats = 9;
};

std::vector<LinearLayer> Layers(const Options& o) {
  if (o.model.empty()) return {o.layer};
  const trainer::LoadedConfig config = trainer::LoadConfigText(
      "", "bench gemm", {"model.preset=\"" + o.model + "\""}, {.ranks = 1, .for_training = false});
  return LinearLayersOfStep(config.settings.model, o.micro * o.seq);
}

// One line of the result, while it is being measured.
struct Case {
  DType dtype;
  int num_threads;
  LinearWorkload workload;
  std::vector<double> forward_s = {}, backward_s = {}, peak_gflops = {};

  void MeasureOnce() {
    peak_gflops.push_back(kernels::cpu::RegisterPeakGflops(PeakIsa(dtype), num_threads));
    forward_s.push_back(TimeOnce([this] { workload.Forward(); }));
    backward_s.push_back(TimeOnce([this] { workload.Backward(); }));
  }
};

nlohmann::ordered_json Report(const Options& o, const Case& c) {
  const LinearLayer& layer = c.workload.layer();
  const Spread forward = Summarize(c.forward_s);
  const Spread backward = Summarize(c.backward_s);
  const Spread peak = Summarize(c.peak_gflops);
  const double gflops = layer.forward_flops() / 1e9 / forward.median;
  const double both = forward.median + backward.median;
  const double gflops_both = 3 * layer.forward_flops() / 1e9 / both;
  return {
      {"bench", "gemm"},
      {"model", o.model},
      {"layer", layer.name},
      {"count", layer.count},
      {"m", layer.m},
      {"n", layer.n},
      {"k", layer.k},
      {"dtype", std::string(DTypeName(c.dtype))},
      {"threads", c.num_threads},
      {"repeats", o.repeats},
      {"seconds", forward.median},
      {"min_s", forward.min},
      {"max_s", forward.max},
      {"gflops", gflops},
      {"bwd_s", backward.median},
      {"bwd_min_s", backward.min},
      {"bwd_max_s", backward.max},
      {"bwd_gflops", 2 * layer.forward_flops() / 1e9 / backward.median},
      {"gflops_fwd_bwd", gflops_both},
      {"peak_gflops", peak.median},
      {"peak_share", gflops / peak.median},
      {"peak_share_fwd_bwd", gflops_both / peak.median},
      {"bytes", c.workload.TouchedBytes()},
      {"backend", kernels::LinearBackendName(c.dtype)},
  };
}

void RunBenchGemm(const Options& o) {
  std::vector<Case> cases;
  for (const LinearLayer& layer : Layers(o)) {
    for (const DType dtype : o.dtypes) {
      for (const int num_threads : o.threads) {
        cases.push_back({dtype, num_threads, LinearWorkload(layer, dtype, num_threads)});
      }
    }
  }
  for (Case& c : cases) c.workload.Verify();
  for (int i = 0; i < o.repeats; ++i) {
    for (Case& c : cases) c.MeasureOnce();
  }
  for (const Case& c : cases) std::cout << Report(o, c).dump() << std::endl;
}

CLI::Option* AddSizeOption(CLI::App& command, const char* name, int64_t& value, const char* help) {
  return command.add_option(name, value, help)
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
}

}  // namespace

void AddBenchGemmCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("gemm", "speed of linear layers, y = x W^T, and their gradients");
  CLI::Option* m = AddSizeOption(*command, "--m", o->layer.m, "rows of x: tokens");
  CLI::Option* n = AddSizeOption(*command, "--n", o->layer.n, "outputs: rows of W");
  CLI::Option* k = AddSizeOption(*command, "--k", o->layer.k, "inputs: columns of x and W");
  CLI::Option* model =
      command->add_option("--model", o->model, "all layers of a step of this preset instead")
          ->excludes(m)
          ->excludes(n)
          ->excludes(k);
  AddSizeOption(*command, "--seq", o->seq, "tokens a sequence of --model")->needs(model);
  AddSizeOption(*command, "--micro", o->micro, "sequences of --model")->needs(model);
  AddDTypesOption(*command, o->dtypes);
  AddThreadsOption(*command, o->threads);
  AddRepeatsOption(*command, o->repeats);
  command->footer(
      "--dtype and --threads take lists; everything runs in turn, a line each. Compares sampled\n"
      "elements with sums in double before anything is timed. seconds and gflops are those of the\n"
      "forward product; peak_gflops is a loop of the same instructions on registers.\n\n"
      "Examples:\n  sepia bench gemm --m 2048 --n 3072 --k 768 --dtype bf16 --threads 2\n"
      "  sepia bench gemm --model pythia-160m --seq 2048 --dtype bf16,fp32 --threads 2");
  command->final_callback([o] { RunBenchGemm(*o); });
}

}  // namespace sepia::tools
