#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tools/gpu_check/speed_checks.h"
#include "tools/sepia/step_workload.h"
#include "trainer/config.h"

namespace sepia::tools::gpu_check {
namespace {

constexpr int kWarmUp = 2;

// One token in six is token 0, the separator.
std::vector<int32_t> Tokens(const trainer::TrainSettings& settings) {
  const int64_t count = settings.batch.micro * (settings.data.sequence_length + 1);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const uint64_t hash = i * 2654435761u % 4294967296u;
    const auto others = static_cast<uint64_t>(settings.model.vocab_size - 1);
    tokens[i] = hash % 6 == 0 ? 0 : static_cast<int32_t>(1 + hash / 6 % others);
  }
  return tokens;
}

std::string Measure(StepSettings settings, const StepSettings& variant, int repetitions) {
  settings.insert(settings.end(), variant.begin(), variant.end());
  const trainer::TrainSettings resolved =
      trainer::LoadConfigText("", "gpu_check", settings, {.ranks = 1, .for_training = false})
          .settings;
  StepWorkload workload(resolved, Tokens(resolved));
  for (int i = 0; i < kWarmUp; ++i) workload.Run();
  workload.VerifyLosses();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) seconds.push_back(workload.Run().total());
  const auto middle = seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return fmt::format("{:.2f} ms, {:.0f} tokens/s, {:.1f} TFLOP/s", 1e3 * *middle,
                     static_cast<double>(workload.num_tokens()) / *middle,
                     1e-12 * workload.flops() / *middle);
}

}  // namespace

std::vector<Finding> MeasureTrainingStep(const StepSettings& settings, int repetitions) {
  struct Variant {
    const char* name;
    StepSettings settings;
  };
  const Variant variants[] = {
      {"Sep-Attention",
       {"model.attention.kind=SEP", "model.attention.window=64",
        "model.attention.separator_ids=[0]"}},
      {"dense, own kernels", {"model.attention.kind=FULL"}},
      {"dense, cuDNN", {"model.attention.kind=FULL", "kernels.full_attention=CUDNN"}}};
  std::vector<Finding> findings;
  for (const Variant& variant : variants) {
    Finding finding = {
        .group = "step", .name = std::string("bf16 step, ") + variant.name, .detail = ""};
    try {
      finding.detail = Measure(settings, variant.settings, repetitions);
      finding.ok = true;
    } catch (const std::exception& error) {
      finding.detail = error.what();
    }
    findings.push_back(finding);
  }
  return findings;
}

}  // namespace sepia::tools::gpu_check
