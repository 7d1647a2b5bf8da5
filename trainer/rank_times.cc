#include "trainer/rank_times.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "dist/gather.h"
#include "dist/launcher.h"

namespace sepia::trainer {
namespace {

constexpr int64_t kNumbers = 3;  // of a rank and step: own, data, comm

}  // namespace

RankTimes::RankTimes(dist::Communicator& world)
    : world_(world),
      nodes_(GatherTexts(world, dist::NodeName(), "node names")),
      sums_(static_cast<size_t>(world.size())) {}

std::vector<double> RankTimes::Share(kernels::Context& ctx, double step_ms, double data_ms,
                                     double comm_ms) {
  if (world_.size() == 1) return {};
  const double own[kNumbers] = {std::max(0.0, step_ms - comm_ms), data_ms, comm_ms};
  std::vector<double> all(static_cast<size_t>(kNumbers * world_.size()));
  world_
      .AllGather(ctx, ConstTensorView(own, DType::kFloat64, {kNumbers}),
                 TensorView::Of(std::span(all), {kNumbers * world_.size()}), "step times")
      .Wait();
  std::vector<double> times;
  for (size_t r = 0; r < sums_.size(); ++r) {
    const double* numbers = &all[r * kNumbers];
    sums_[r].own += numbers[0];
    sums_[r].data += numbers[1];
    sums_[r].comm += numbers[2];
    times.push_back(numbers[0]);
  }
  ++steps_;
  return times;
}

std::string RankTimes::Report() {
  if (steps_ == 0) return "";
  std::vector<double> own;
  for (const Sums& sums : sums_) own.push_back(sums.own / static_cast<double>(steps_));
  const double median = LowerMedian(own);
  const auto slowest = static_cast<size_t>(std::max_element(own.begin(), own.end()) - own.begin());
  const Sums sums = sums_[slowest];
  const auto steps = static_cast<double>(steps_);
  std::fill(sums_.begin(), sums_.end(), Sums());
  steps_ = 0;
  if (own[slowest] <= kSlowFactor * median) return "";
  return fmt::format(
      "rank {} (on {}) is slow: {:.1f} ms a step of its own, the median rank {:.1f} ms (data "
      "{:.1f}, compute {:.1f}, waiting for others {:.1f} ms)",
      slowest, nodes_[slowest], own[slowest], median, sums.data / steps,
      own[slowest] - sums.data / steps, sums.comm / steps);
}

double LowerMedian(std::vector<double> values) {
  CHECK(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace sepia::trainer
