// sepia bench step: whole optimizer steps: forward, backward, AdamW.
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "kernels/cpu/register_peak.h"
#include "kernels/linear.h"
#include "kernels/sep_attention.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/bench_text.h"
#include "tools/sepia/linear_workload.h"
#include "tools/sepia/step_workload.h"
#include "trainer/config.h"
#include "trainer/machine.h"
#include "trainer/memory_plan.h"
#include "trainer/process.h"

namespace sepia::tools {
namespace {

struct Options {
  std::string model = "pythia-70m";
  int64_t seq = 2048;
  int64_t micro = 1;
  std::vector<std::string> dtypes = {"fp32"};
  std::vector<std::string> attentions = {"full"};
  int32_t window = 64;
  std::vector<int32_t> full_layers;
  std::string text;
  std::string tokenizer;
  double density = 0.16;
  int steps = 5;
  std::vector<int> threads = {0};
  bool recompute = false;
  bool paced = false;
};

constexpr int kWarmUp = 2;  // touches every page, fills every cache of the products

// A config in the trainer's own grammar, so that a bench builds exactly what a run would.
trainer::TrainSettings Settings(const Options& o, const std::string& dtype,
                                const std::string& attention, int num_threads,
                                const std::vector<int32_t>& separator_ids) {
  std::vector<std::string> overrides = {
      fmt::format("model.preset=\"{}\"", o.model),
      fmt::format("model.attention.kind={}", attention == "sep" ? "SEP" : "FULL"),
      fmt::format("model.attention.window={}", o.window),
      fmt::format("model.max_positions={}", std::max<int64_t>(2048, o.seq)),
      fmt::format("precision={}", dtype == "bf16" ? "BF16" : "FP32"),
      fmt::format("data.sequence_length={}", o.seq),
      fmt::format("batch.micro={}", o.micro),
      fmt::format("batch.global={}", o.micro),
      fmt::format("threads={}", num_threads),
      fmt::format("recompute={}", o.recompute)};
  if (attention == "sep" && !o.full_layers.empty()) {
    overrides.push_back(
        fmt::format("model.attention.full_layers=[{}]", fmt::join(o.full_layers, ",")));
  }
  if (!separator_ids.empty()) {
    overrides.push_back(
        fmt::format("model.attention.separator_ids=[{}]", fmt::join(separator_ids, ",")));
  }
  return trainer::LoadConfigText("", "bench step", overrides, {.ranks = 1, .for_training = false})
      .settings;
}

// One line of the result, while it is being measured.
struct Case {
  trainer::TrainSettings settings;
  std::string attention;
  std::unique_ptr<StepWorkload> workload = nullptr;
  const StepProducts* products = nullptr;  // of the same dtype and threads
  int64_t growth_bytes = 0;                // peak of the process over what it had before the model
  int64_t peak_rss_bytes = 0;              // of the process until after the warm-up
  std::vector<double> forward_s = {}, backward_s = {}, optimizer_s = {}, step_s = {};
  std::vector<double> peak_gflops = {};

  DType dtype() const { return settings.compute_dtype(); }

  double MeasureOnce() {
    peak_gflops.push_back(
        kernels::cpu::RegisterPeakGflops(PeakIsa(dtype()), trainer::NumThreads(settings)));
    const StepSeconds seconds = workload->Run();
    forward_s.push_back(seconds.forward);
    backward_s.push_back(seconds.backward);
    optimizer_s.push_back(seconds.optimizer);
    step_s.push_back(seconds.total());
    return seconds.total();
  }
};

// All combinations of the lists among the options, each warmed up and verified.
class Cases {
 public:
  explicit Cases(const Options& o) : options_(o) {
    if (!o.text.empty()) input_ = TokensOfText(o.text, o.tokenizer, NumTokens());
    for (const std::string& attention : o.attentions) {
      for (const std::string& dtype : o.dtypes) {
        for (const int threads : o.threads) {
          cases_.push_back(
              {.settings = Settings(o, dtype, attention, threads, input_.separator_ids),
               .attention = attention});
        }
      }
    }
    RequireMemoryForAll();
    for (Case& c : cases_) Prepare(c);
    // After all models, so that their memory is measured without the products'.
    for (Case& c : cases_) AddProducts(c);
  }

  // Every model once, then every product once; returns the seconds of the models' steps.
  std::vector<double> MeasureOnce() {
    std::vector<double> seconds;
    for (Case& c : cases_) seconds.push_back(c.MeasureOnce());
    for (auto& [key, products] : products_) products.MeasureOnce();
    return seconds;
  }

  const std::vector<Case>& all() const { return cases_; }

 private:
  int64_t NumTokens() const { return options_.micro * (options_.seq + 1); }

  // All models stay for all rounds.
  void RequireMemoryForAll() const {
    int64_t bytes = 0;
    for (const Case& c : cases_) bytes += trainer::PlanMemory(c.settings).total();
    trainer::RequireMemory(
        bytes, fmt::format("bench step: {} model{}", cases_.size(), cases_.size() == 1 ? "" : "s"),
        "give fewer values to --attention, --dtype and --threads at a time, a smaller --micro or "
        "--seq, or --recompute");
  }

  void Prepare(Case& c) {
    const model::ModelConfig& model = c.settings.model;
    if (options_.text.empty()) {
      input_.tokens =
          RandomTokens(NumTokens(), model.vocab_size, model.separator_ids, options_.density);
    }
    const int64_t before = trainer::ResidentBytes();
    trainer::ResetPeakResident();
    c.workload = std::make_unique<StepWorkload>(c.settings, input_.tokens);
    for (int i = 0; i < kWarmUp; ++i) c.workload->Run();
    c.peak_rss_bytes = trainer::PeakResidentBytes();
    c.growth_bytes = c.peak_rss_bytes - before;
    c.workload->VerifyLosses();
  }

  void AddProducts(Case& c) {
    const int threads = trainer::NumThreads(c.settings);
    const auto key = std::pair(c.dtype(), threads);
    const int64_t rows = options_.micro * options_.seq;
    c.products =
        &products_.try_emplace(key, c.settings.model, rows, c.dtype(), threads).first->second;
  }

  const Options& options_;
  TokensAndSeparators input_;
  std::map<std::pair<DType, int>, StepProducts> products_;
  std::vector<Case> cases_;
};

nlohmann::ordered_json Report(const Options& o, const Case& c) {
  const Spread total = Summarize(c.step_s);
  const double gflops = c.workload->flops() / 1e9 / total.median;
  const double products = c.products->Gflops();
  const Spread peak = Summarize(c.peak_gflops);
  const int64_t planned = trainer::PlanMemory(c.settings).total();
  return {
      {"bench", "step"},
      {"model", o.model},
      {"parameters", c.settings.model.num_parameters()},
      {"seq", o.seq},
      {"micro", o.micro},
      {"dtype", std::string(DTypeName(c.dtype()))},
      {"attention", c.attention},
      {"window", o.window},
      {"full_layers", o.full_layers},
      {"recompute", o.recompute},
      {"threads", trainer::NumThreads(c.settings)},
      {"steps", o.steps},
      {"linear", kernels::LinearBackendName(c.dtype())},
      {"attention_isa", kernels::SepAttentionIsaName(c.dtype())},
      {"median_s", total.median},
      {"min_s", total.min},
      {"max_s", total.max},
      {"tokens_per_s", static_cast<double>(c.workload->num_tokens()) / total.median},
      {"fwd_s", Summarize(c.forward_s).median},
      {"bwd_s", Summarize(c.backward_s).median},
      {"opt_s", Summarize(c.optimizer_s).median},
      {"planned_bytes", planned},
      {"measured_growth_bytes", c.growth_bytes},
      {"growth_over_plan", static_cast<double>(c.growth_bytes) / static_cast<double>(planned)},
      {"peak_rss_bytes", c.peak_rss_bytes},
      {"attn_kept", c.workload->attention_work().kept_share()},
      {"gflops", gflops},
      {"gemm_peak_gflops", products},
      {"mfu", gflops / products},
      {"register_peak_gflops", peak.median},
      {"peak_share", gflops / peak.median},
      {"first_loss", c.workload->first_loss()},
      {"last_loss", c.workload->last_loss()},
  };
}

void RunBenchStep(const Options& o) {
  Cases cases(o);
  RunRounds(o.steps, o.paced, cases.all().size(), [&] { return cases.MeasureOnce(); });
  for (const Case& c : cases.all()) std::cout << Report(o, c).dump() << std::endl;
}

void AddSizeOptions(CLI::App& command, Options& o) {
  command.add_option("--model", o.model, "a model preset")->capture_default_str();
  command.add_option("--seq", o.seq, "tokens a sequence")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--micro", o.micro, "sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command.add_option("--dtype", o.dtypes, "fp32, bf16")
      ->capture_default_str()
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"fp32", "f32", "bf16"}));
  command.add_option("--threads", o.threads, "0 = all that the process may use")
      ->capture_default_str()
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(0, 1024));
}

void AddRuleOptions(CLI::App& command, Options& o) {
  command.add_option("--attention", o.attentions, "full, sep")
      ->capture_default_str()
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"full", "sep"}));
  command.add_option("--window", o.window, "keys in the window of sep, own included")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--full-layers", o.full_layers, "layers of sep that stay dense, e.g. 0,-1")
      ->delimiter(',')
      ->allow_extra_args(false);
  CLI::Option* density =
      command.add_option("--density", o.density, "share of separators in random tokens")
          ->capture_default_str()
          ->check(CLI::Range(0.0, 1.0));
  CLI::Option* tokenizer =
      command.add_option("--tokenizer", o.tokenizer, "tokenizer.json for --text");
  command.add_option("--text", o.text, "train on the start of this text, instead of random tokens")
      ->needs(tokenizer)
      ->excludes(density);
}

}  // namespace

void AddBenchStepCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("step", "speed and memory of whole training steps");
  AddSizeOptions(*command, *o);
  AddRuleOptions(*command, *o);
  command->add_flag("--recompute", o->recompute, "recompute activations in the backward pass");
  command->add_option("--steps", o->steps, "timed steps; the median is reported")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  AddPacedOption(*command, o->paced);
  command->footer(
      "--attention, --dtype and --threads take lists: all combinations run in turn, a line each.\n"
      "Two untimed steps come first; fails unless the loss starts near ln V and falls. mfu is\n"
      "gflops over gemm_peak_gflops, the speed of the step's own matrix products, timed in turn\n"
      "with the steps; growth_over_plan is measured over planned memory.\n\n"
      "Example:\n  sepia bench step --model pythia-160m --seq 2048 --dtype bf16 --attention "
      "sep,full --threads 2");
  command->final_callback([o] { RunBenchStep(*o); });
}

}  // namespace sepia::tools
