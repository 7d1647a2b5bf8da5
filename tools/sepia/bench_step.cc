// sepia bench step: one whole optimizer step: forward, backward, AdamW.
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <sys/resource.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/gemm_peak.h"
#include "kernels/linear.h"
#include "kernels/sep_attention.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/bench_text.h"
#include "tools/sepia/loaded_model.h"
#include "trainer/flops.h"
#include "trainer/optimizer.h"

namespace sepia::tools {
namespace {

struct Options {
  std::string model = "pythia-70m";
  int64_t seq = 2048;
  int64_t micro = 1;
  std::string dtype = "fp32";
  std::string attention = "full";
  int32_t window = 64;
  std::vector<int32_t> full_layers;
  std::string text;
  std::string tokenizer;
  double density = 0.16;
  int steps = 5;
  int threads = 0;
  bool recompute = false;
};

int64_t PeakRssBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

struct Tokens {
  std::vector<int32_t> tokens, targets;
};

// Rows of T + 1 consecutive tokens.
Tokens CutRows(const std::vector<int32_t>& stream, const Options& options) {
  Tokens result;
  for (int64_t row = 0; row < options.micro; ++row) {
    const auto begin = stream.begin() + row * (options.seq + 1);
    result.tokens.insert(result.tokens.end(), begin, begin + options.seq);
    result.targets.insert(result.targets.end(), begin + 1, begin + options.seq + 1);
  }
  return result;
}

// A config in the trainer's own grammar.
trainer::LoadedConfig LoadBenchConfig(const Options& options,
                                      const std::vector<int32_t>& separator_ids) {
  std::vector<std::string> overrides = {
      fmt::format("model.preset=\"{}\"", options.model),
      fmt::format("model.attention.kind={}", options.attention == "sep" ? "SEP" : "FULL"),
      fmt::format("model.attention.window={}", options.window),
      fmt::format("model.max_positions={}", std::max<int64_t>(2048, options.seq)),
      fmt::format("precision={}", options.dtype == "bf16" ? "BF16" : "FP32")};
  if (!options.full_layers.empty()) {
    overrides.push_back(
        fmt::format("model.attention.full_layers=[{}]", fmt::join(options.full_layers, ",")));
  }
  if (!separator_ids.empty()) {
    overrides.push_back(
        fmt::format("model.attention.separator_ids=[{}]", fmt::join(separator_ids, ",")));
  }
  return trainer::LoadConfigText("", "bench step", overrides, {.ranks = 1, .for_training = false});
}

// Model, optimizer and one batch.
class Step {
 public:
  Step(const trainer::TrainSettings& settings, const Options& options, const Tokens& tokens,
       int num_threads)
      : mesh_(dist::MakeSelfCommunicator(), /*tensor=*/1),
        model_(settings.model,
               {.compute_dtype = settings.compute_dtype(),
                .batch_size = options.micro,
                .seq_length = options.seq,
                .recompute = options.recompute,
                .num_threads = num_threads},
               mesh_),
        ctx_{.num_threads = num_threads, .scratch = &model_.scratch()},
        optimizer_(
            {.lr = kLr, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0},
            model_, mesh_),
        batch_(MakeBatch(model_.attention_plan(), tokens.tokens, tokens.targets, options.micro,
                         options.seq)) {
    optimizer_.InitializeWeights(ctx_, /*seed=*/1234);
  }

  void Forward() { model_.Forward(ctx_, batch_); }

  // Returns the mean loss before the update that follows.
  double Backward() {
    double loss_sum = 0;
    const float grad_scale = 1.0f / static_cast<float>(batch_.num_targets());
    model_.Backward(ctx_, batch_,
                    {.grad_scale = ConstTensorView(&grad_scale, DType::kFloat32, {1}),
                     .loss_sum = TensorView(&loss_sum, DType::kFloat64, {1}),
                     .loss_mode = GradMode::kOverwrite,
                     .grad_mode = GradMode::kOverwrite});
    return loss_sum / static_cast<double>(batch_.num_targets());
  }

  void Update() {
    optimizer_.MeasureGradients(ctx_, /*loss_scale=*/1);
    optimizer_.Update(ctx_, kLr);
  }

  double grad_norm() const { return optimizer_.grad_norm(); }
  const Batch& batch() const { return batch_; }
  model::GptNeox& model() { return model_; }

 private:
  static constexpr double kLr = 1e-4;

  dist::Mesh mesh_;
  model::GptNeox model_;
  kernels::Context ctx_;
  trainer::AdamW optimizer_;
  Batch batch_;
};

// A fresh model's loss is near ln V and falls when it sees the same batch again.
void Verify(double first_loss, double last_loss, double grad_norm, int64_t vocab_size) {
  const double expected = std::log(static_cast<double>(vocab_size));
  if (std::isfinite(grad_norm) && std::abs(first_loss - expected) < 0.1 * expected &&
      last_loss < first_loss) {
    return;
  }
  throw Error(ExitCode::kNumerical,
              fmt::format("bench step: loss {} then {}, gradient norm {}; expected a loss near {} "
                          "that falls",
                          first_loss, last_loss, grad_norm, expected));
}

void RunBenchStep(const Options& options) {
  const int64_t num_tokens = options.micro * (options.seq + 1);
  TokensAndSeparators input;
  if (!options.text.empty()) input = TokensOfText(options.text, options.tokenizer, num_tokens);
  const trainer::LoadedConfig config = LoadBenchConfig(options, input.separator_ids);
  const model::ModelConfig& model_config = config.settings.model;
  if (options.text.empty()) {
    input.tokens = RandomTokens(num_tokens, model_config.vocab_size, model_config.separator_ids,
                                options.density);
  }
  const int num_threads = options.threads > 0 ? options.threads : kernels::DefaultNumThreads();
  Step step(config.settings, options, CutRows(input.tokens, options), num_threads);

  constexpr int kWarmUp = 2;  // touches every page, fills every cache of the products
  std::vector<double> forward_s, backward_s, optimizer_s, step_s;
  double first_loss = 0, last_loss = 0;
  for (int i = 0; i < kWarmUp + options.steps; ++i) {
    Timer timer;
    step.Forward();
    const double forward = timer.Lap();
    last_loss = step.Backward();
    const double backward = timer.Lap();
    step.Update();
    const double optimizer = timer.Lap();
    if (i == 0) first_loss = last_loss;
    if (i < kWarmUp) continue;
    forward_s.push_back(forward);
    backward_s.push_back(backward);
    optimizer_s.push_back(optimizer);
    step_s.push_back(forward + backward + optimizer);
  }
  Verify(first_loss, last_loss, step.grad_norm(), model_config.vocab_size);

  const Spread total = Summarize(step_s);
  const DType dtype = config.settings.compute_dtype();
  const int64_t tokens = options.micro * options.seq;
  const trainer::AttentionWork work = trainer::CountAttentionWork(
      step.model().attention_plan(), step.batch().indexes, options.micro, options.seq);
  const double gflops = trainer::TrainingFlops(model_config, tokens, work) / 1e9;
  const double peak = kernels::MeasureGemmPeakGflops(dtype, num_threads);
  const nlohmann::ordered_json result = {
      {"bench", "step"},
      {"model", options.model},
      {"parameters", model_config.num_parameters()},
      {"seq", options.seq},
      {"micro", options.micro},
      {"dtype", std::string(DTypeName(dtype))},
      {"attention", options.attention},
      {"window", options.window},
      {"full_layers", options.full_layers},
      {"recompute", options.recompute},
      {"threads", num_threads},
      {"steps", options.steps},
      {"linear", kernels::LinearBackendName(dtype)},
      {"attention_isa", kernels::SepAttentionIsaName(dtype)},
      {"median_s", total.median},
      {"min_s", total.min},
      {"max_s", total.max},
      {"tokens_per_s", static_cast<double>(tokens) / total.median},
      {"fwd_s", Summarize(forward_s).median},
      {"bwd_s", Summarize(backward_s).median},
      {"opt_s", Summarize(optimizer_s).median},
      {"peak_rss_bytes", PeakRssBytes()},
      {"attn_kept", work.kept_share()},
      {"gflops", gflops / total.median},
      {"gemm_peak_gflops", peak},
      {"mfu", gflops / total.median / peak},
      {"first_loss", first_loss},
      {"last_loss", last_loss},
  };
  std::cout << result.dump() << std::endl;
}

}  // namespace

void AddBenchStepCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("step", "speed of one whole training step");
  command->add_option("--model", o->model, "a model preset")->capture_default_str();
  command->add_option("--seq", o->seq, "tokens a sequence")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--micro", o->micro, "sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command->add_option("--dtype", o->dtype, "fp32 or bf16")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "f32", "bf16"}));
  command->add_option("--attention", o->attention, "full or sep")
      ->capture_default_str()
      ->check(CLI::IsMember({"full", "sep"}));
  command->add_option("--window", o->window, "keys in the window of sep, own included")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--full-layers", o->full_layers, "layers that stay dense, e.g. 0,-1")
      ->delimiter(',')
      ->allow_extra_args(false);
  CLI::Option* density =
      command->add_option("--density", o->density, "share of separators in random tokens")
          ->capture_default_str()
          ->check(CLI::Range(0.0, 1.0));
  CLI::Option* tokenizer =
      command->add_option("--tokenizer", o->tokenizer, "tokenizer.json for --text");
  command
      ->add_option("--text", o->text, "train on the start of this text, instead of random tokens")
      ->needs(tokenizer)
      ->excludes(density);
  command->add_option("--steps", o->steps, "timed steps; the median is reported")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  command->add_option("--threads", o->threads, "0 = all that the process may use")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  command->add_flag("--recompute", o->recompute, "recompute activations in the backward pass");
  command->footer(
      "Two untimed steps come first. Fails unless the loss starts near ln V and falls.\n\n"
      "Example:\n  sepia bench step --model pythia-160m --seq 2048 --dtype bf16 --attention sep "
      "--threads 2");
  command->final_callback([o] { RunBenchStep(*o); });
}

}  // namespace sepia::tools
