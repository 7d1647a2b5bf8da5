#include "tools/sepia/memory_choices.h"

#include <algorithm>

#include <fmt/core.h>

#include "trainer/log_line.h"
#include "trainer/memory_plan.h"

namespace sepia::tools {
namespace {

bool Fits(const MemoryChoice& choice, int64_t limit) { return limit == 0 || choice.bytes <= limit; }

std::string Cell(const MemoryChoice& choice, bool is_set, int64_t limit) {
  const char* verdict = !Fits(choice, limit) ? " (does not fit)" : is_set ? " *" : "";
  return trainer::FormatBytes(choice.bytes) + verdict;
}

}  // namespace

std::vector<MemoryChoice> MemoryChoices(const trainer::TrainSettings& settings,
                                        int64_t data_ranks) {
  const int64_t configured = settings.batch.micro;
  const int64_t samples = settings.batch.global / data_ranks;
  std::vector<int64_t> sizes = {configured};
  for (int64_t micro = 1; micro <= std::max<int64_t>(8, 4 * configured); micro *= 2) {
    if (samples % micro == 0 && micro != configured) sizes.push_back(micro);
  }
  std::sort(sizes.begin(), sizes.end());
  std::vector<MemoryChoice> choices;
  for (const int64_t micro : sizes) {
    for (const bool recompute : {false, true}) {
      trainer::TrainSettings other = settings;
      other.batch.micro = micro;
      other.recompute = recompute;
      choices.push_back(
          {micro, samples / micro, recompute, trainer::PlanMemory(other, data_ranks).total()});
    }
  }
  return choices;
}

double RecomputedShare(const model::ModelConfig& config, int64_t tokens,
                       const trainer::AttentionWork& attention) {
  const double head = 2.0 * static_cast<double>(config.vocab_size) *
                      static_cast<double>(config.hidden_size) * static_cast<double>(tokens);
  const auto layers = static_cast<double>(config.num_layers);
  const double blocks = trainer::ForwardFlops(config, tokens, attention) - head;
  return blocks * (layers - 1) / layers / trainer::TrainingFlops(config, tokens, attention);
}

std::string ChoiceThatFits(const std::vector<MemoryChoice>& choices, int64_t limit) {
  const MemoryChoice* best = nullptr;
  for (const MemoryChoice& choice : choices) {
    if (!Fits(choice, limit)) continue;
    const auto rank = [](const MemoryChoice& c) { return c.recompute ? c.micro : c.micro << 32; };
    if (best == nullptr || rank(choice) > rank(*best)) best = &choice;
  }
  if (best == nullptr) return "";
  return fmt::format("batch.micro: {}{} would ({})", best->micro,
                     best->recompute ? " with recompute: true" : "",
                     trainer::FormatBytes(best->bytes));
}

std::vector<std::string> DescribeChoices(const trainer::TrainSettings& settings,
                                         const std::vector<MemoryChoice>& choices, int64_t limit,
                                         double added) {
  constexpr const char* kColumns = "{:<14}{:<14}{:<24}{}";
  std::vector<std::string> lines = {
      fmt::format(kColumns, "batch.micro", "accumulation", "recompute: false", "recompute: true")};
  for (size_t i = 0; i + 1 < choices.size(); i += 2) {
    const MemoryChoice& c = choices[i];
    const bool is_set = c.micro == settings.batch.micro;
    lines.push_back(fmt::format(kColumns, c.micro, c.accumulation,
                                Cell(c, is_set && !settings.recompute, limit),
                                Cell(choices[i + 1], is_set && settings.recompute, limit)));
  }
  lines.push_back(
      fmt::format("recompute saves what layers keep for backward and costs {:.0f} % more "
                  "arithmetic; the bits are the same",
                  100 * added));
  lines.emplace_back(
      "a smaller micro-batch keeps fewer samples' activations, and passes over weights and");
  lines.emplace_back(
      "gradients once more for each; a step of a single one keeps no gradients beside them");
  return lines;
}

}  // namespace sepia::tools
