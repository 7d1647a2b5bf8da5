#include "trainer/layout_search.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace sepia::trainer {
namespace {

constexpr int32_t kZeroStages = 3;  // that the trainer knows: 0, 1 and 2

class Searcher {
 public:
  Searcher(const TrainSettings& settings, const Cluster& cluster, const Hardware& hardware,
           double density)
      : settings_(settings), cluster_(cluster), hardware_(hardware), density_(density) {}

  LayoutSearch Search() {
    for (int64_t tensor = 1; tensor <= cluster_.ranks(); ++tensor) {
      if (cluster_.ranks() % tensor == 0) TryTensor(static_cast<int32_t>(tensor));
    }
    std::stable_sort(found_.fitting.begin(), found_.fitting.end(),
                     [](const LayoutPlan& a, const LayoutPlan& b) {
                       return a.prediction.step() < b.prediction.step();
                     });
    std::stable_sort(
        found_.too_large.begin(), found_.too_large.end(),
        [](const LayoutPlan& a, const LayoutPlan& b) { return a.excess_bytes < b.excess_bytes; });
    return std::move(found_);
  }

 private:
  void Refuse(const std::string& what, const std::string& why) {
    found_.refused.push_back({what, why});
  }

  void TryTensor(int32_t tensor) {
    const std::string name = fmt::format("tensor {}", tensor);
    const model::ModelConfig& m = settings_.model;
    if (cluster_.ranks_per_node % tensor != 0) {
      return Refuse(name, fmt::format("a tensor group would cross nodes of {} ranks",
                                      cluster_.ranks_per_node));
    }
    const std::pair<const char*, int64_t> cut[] = {{"heads", m.num_heads},
                                                   {"inner features", m.intermediate_size},
                                                   {"tokens of the vocabulary", m.vocab_size}};
    for (const auto& [what, size] : cut) {
      if (size % tensor != 0)
        return Refuse(name, fmt::format("does not divide the {} {}", size, what));
    }
    const int64_t data = cluster_.ranks() / tensor;
    const int64_t global = settings_.batch.global;
    if (global % data != 0) {
      return Refuse(fmt::format("tensor {} x data {}", tensor, data),
                    fmt::format("batch.global {} is not a multiple of {} data ranks; the nearest "
                                "are {} and {}",
                                global, data, std::max(data, global / data * data),
                                (global / data + 1) * data));
    }
    for (int64_t micro = 1; micro <= global / data; ++micro) {
      if (global / data % micro == 0) TryMicro(tensor, data, micro);
    }
  }

  void TryMicro(int32_t tensor, int64_t data, int64_t micro) {
    for (int32_t zero = 0; zero < (data > 1 ? kZeroStages : 1); ++zero) {
      for (const bool sequence : {false, true}) {
        if (sequence && tensor == 1) continue;
        for (const bool recompute : {false, true}) {
          LayoutPlan plan{.settings = settings_, .data_ranks = data};
          plan.settings.parallel.tensor = tensor;
          plan.settings.parallel.zero_stage = zero;
          plan.settings.parallel.sequence = sequence;
          plan.settings.batch.micro = micro;
          plan.settings.recompute = recompute;
          Add(std::move(plan));
        }
      }
    }
  }

  void Add(LayoutPlan plan) {
    plan.memory = PlanMemory(plan.settings, plan.data_ranks);
    const int64_t needed = plan.memory.total() + hardware_.reserved_bytes;
    plan.excess_bytes = std::max<int64_t>(0, needed - hardware_.memory_bytes);
    plan.prediction = PredictStep(plan.settings, cluster_, hardware_, density_);
    (plan.excess_bytes == 0 ? found_.fitting : found_.too_large).push_back(std::move(plan));
  }

  const TrainSettings& settings_;
  const Cluster& cluster_;
  const Hardware& hardware_;
  const double density_;
  LayoutSearch found_;
};

}  // namespace

LayoutSearch SearchLayouts(const TrainSettings& settings, const Cluster& cluster,
                           const Hardware& hardware, double density) {
  return Searcher(settings, cluster, hardware, density).Search();
}

}  // namespace sepia::trainer
