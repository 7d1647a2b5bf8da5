// sepia plan: which layout for these ranks: memory, communication and time of every one.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "tools/sepia/byte_size.h"
#include "tools/sepia/command.h"
#include "tools/sepia/measured_rates.h"
#include "tools/sepia/plan_report.h"
#include "tools/sepia/set_option.h"
#include "trainer/config.h"
#include "trainer/data_check.h"
#include "trainer/flops.h"
#include "trainer/layout_search.h"
#include "trainer/machine.h"

namespace sepia::tools {
namespace {

// Rows of the datasets that are looked at.
constexpr int64_t kSampledRows = 64;

struct PlanOptions {
  std::string config;
  std::vector<std::string> overrides;
  int64_t ranks = 1;
  int64_t nodes = 0;  // 0: as few as the hardware allows
  std::string hardware = "cpu";
  std::optional<double> density;
  std::string memory;
  // 0: as measured or stated.
  double in_node_gb_per_s = 0, in_node_us = 0, across_gb_per_s = 0, across_us = 0;
  int64_t most_rows = 10;
  bool all = false;
  bool json = false;
};

trainer::Cluster ClusterOf(const PlanOptions& o, int ranks_per_node) {
  int64_t nodes = o.nodes;
  if (nodes == 0) nodes = ranks_per_node == 0 ? 1 : (o.ranks + ranks_per_node - 1) / ranks_per_node;
  if (o.ranks % nodes != 0) {
    throw UserError(
        fmt::format("--gpus {} cannot be shared out evenly over {} nodes; give a "
                    "multiple, or other --nodes",
                    o.ranks, nodes));
  }
  return {.nodes = nodes, .ranks_per_node = o.ranks / nodes};
}

void Override(const PlanOptions& o, trainer::Hardware* hardware) {
  const auto replace = [](double given, double unit, double* rate) {
    if (given > 0) *rate = given * unit;
  };
  replace(o.in_node_gb_per_s, 1e9, &hardware->in_node.bytes_per_s);
  replace(o.in_node_us, 1e-6, &hardware->in_node.latency_s);
  replace(o.across_gb_per_s, 1e9, &hardware->across_nodes.bytes_per_s);
  replace(o.across_us, 1e-6, &hardware->across_nodes.latency_s);
  if (!o.memory.empty()) hardware->memory_bytes = ParseByteSize(o.memory).value();
}

// Share of separators and where it comes from.
std::pair<double, std::string> DensityOf(const PlanOptions& o,
                                         const trainer::TrainSettings& settings) {
  if (o.density) return {*o.density, "as given"};
  if (const auto sample = trainer::SampleText(settings, kSampledRows)) {
    if (!settings.model.separator_ids.empty()) {
      return {sample->separator_density(), "measured on the training data"};
    }
  }
  return {trainer::kUsualSeparatorDensity, "usual in English text"};
}

void RunPlan(const PlanOptions& o) {
  trainer::TrainSettings settings =
      trainer::LoadConfig(o.config, o.overrides,
                          {.for_training = false, .allow_missing_files = true})
          .settings;
  const auto [density, basis] = DensityOf(o, settings);
  std::optional<trainer::Hardware> hardware =
      trainer::HardwareFromDataSheet(o.hardware, settings.compute_dtype());
  const trainer::Cluster cluster = ClusterOf(o, hardware ? hardware->ranks_per_node : 0);
  if (hardware) {
    settings.threads = 1;  // the arenas of a GPU hold no scratch of threads
  } else {
    const auto ranks = static_cast<int>(cluster.ranks_per_node);
    if (settings.threads == 0) {
      settings.threads = std::max(1, trainer::ReadMachine().usable_cpus / ranks);
    }
    hardware = MeasureThisMachine(settings, ranks, density);
  }
  Override(o, &*hardware);
  const trainer::LayoutSearch search =
      trainer::SearchLayouts(settings, cluster, *hardware, density);
  const PlanReport report = {.settings = settings,
                             .cluster = cluster,
                             .hardware = *hardware,
                             .search = search,
                             .density = density,
                             .density_basis = basis,
                             .most_rows = o.all ? 0 : o.most_rows};
  (o.json ? PrintPlanAsJson : PrintPlan)(report);
  if (search.fitting.empty()) {
    throw UserError("no layout fits; use more ranks, or more memory a rank");
  }
}

void AddRateOptions(CLI::App& command, PlanOptions& o) {
  const auto check = [](const std::string& text) {
    return ParseByteSize(text) ? std::string()
                               : fmt::format("\"{}\" is not a size such as 64GiB", text);
  };
  command.add_option("--memory", o.memory, "of one rank, e.g. 64GiB (default: the hardware's)")
      ->check(CLI::Validator(check, "SIZE"));
  const auto rate = [&](const char* name, double& value, const char* help) {
    command.add_option(name, value, help)->check(CLI::PositiveNumber);
  };
  rate("--in-node-gb-per-s", o.in_node_gb_per_s, "of a rank to its node, 1e9 bytes a second");
  rate("--in-node-us", o.in_node_us, "latency inside a node, microseconds");
  rate("--across-gb-per-s", o.across_gb_per_s, "network of a node, 1e9 bytes a second");
  rate("--across-us", o.across_us, "latency between nodes, microseconds");
}

}  // namespace

void AddPlanCommand(CLI::App& app) {
  auto o = std::make_shared<PlanOptions>();
  CLI::App* command = app.add_subcommand(
      "plan", "the layouts of a run over N ranks: memory, communication and time of each");
  command->add_option("config", o->config, "config file (text format)")->required();
  AddSetOption(*command, &o->overrides);
  command->add_option("--gpus,--ranks", o->ranks, "number of ranks (processes)")
      ->required()
      ->check(CLI::Range(1, 1 << 16));
  command->add_option("--nodes", o->nodes, "machines (default: as few as hold the ranks)")
      ->check(CLI::Range(1, 1 << 16));
  command->add_option("--hardware", o->hardware, "cpu: this machine, measured; a100, h100: stated")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "a100", "h100"}));
  command
      ->add_option("--density", o->density,
                   "share of separators (default: that of the training data)")
      ->check(CLI::Range(0.0, 1.0));
  AddRateOptions(*command, *o);
  command->add_option("--rows", o->most_rows, "layouts that are printed")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--all", o->all, "print all layouts");
  command->add_flag("--json", o->json, "one JSON object a line");
  command->footer(
      "Tries every tensor x data x ZeRO stage x sequence x micro-batch x recompute; batch.global\n"
      "and the sequence length stay. Memory and bytes are exact; times are predictions: "
      "docs/planning.md.\n"
      "The speed of links comes from `mpirun ... sepia doctor` or `sepia bench allreduce`.\n\n"
      "Examples:\n"
      "  sepia plan configs/sepllm-160m-n64.textproto --gpus 2\n"
      "  sepia plan configs/pythia-6.9b.textproto --gpus 64 --hardware h100");
  command->final_callback([o] { RunPlan(*o); });
}

}  // namespace sepia::tools
