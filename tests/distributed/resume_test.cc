// Runs in parts: the same layout gives the bits of the undisturbed run, another one its curve.
// SEPIA_FULL_RESUME: every precision with every layout.
#include <cstdlib>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"

namespace sepia::testing {
namespace {

constexpr int64_t kSteps = 12;

struct Layout {
  int tensor, data, zero;
  std::string name() const { return fmt::format("{}x{}z{}", tensor, data, zero); }
};

// 12 samples a step in three micro-batches: step 5 ends inside the second pass over 50 samples.
ProcessResult Train(const TinyRun& run, const std::string& name, const Layout& layout,
                    const std::string& precision, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {"--set", "batch.global=12",
                                   "--set", fmt::format("batch.micro={}", 4 / layout.data),
                                   "--set", fmt::format("schedule.total_steps={}", kSteps),
                                   "--set", fmt::format("schedule.decay_steps={}", kSteps),
                                   "--set", "checkpoint.every_steps=0",
                                   "--set", "eval.every_steps=0",
                                   "--set", fmt::format("parallel.tensor={}", layout.tensor),
                                   "--set", fmt::format("parallel.zero_stage={}", layout.zero),
                                   "--set", "precision=" + precision,
                                   "--set", "threads=1"};
  if (precision == "FP16") {
    // Overflows at the start and, when the scale has grown again, later.
    args.insert(args.end(), {"--set", "loss_scale.initial_scale_power=24", "--set",
                             "loss_scale.window=3", "--set", "loss_scale.hysteresis=1"});
  }
  args.insert(args.end(), more.begin(), more.end());
  const int ranks = layout.tensor * layout.data;
  return RunSepia(run.Train(name, args), {.ranks = ranks == 1 ? 0 : ranks});
}

// Steps after which to stop: mid-epoch, and before and after an update that is skipped.
std::vector<int64_t> Stops(const std::string& calm_metrics, const std::string& precision) {
  if (precision != "FP16") return {5};
  int64_t skipped = 0;
  for (const nlohmann::ordered_json& step : ReadMetrics(calm_metrics)) {
    const auto number = step["step"].get<int64_t>();
    if (step["skip"].get<bool>() && number < kSteps) skipped = number;
  }
  EXPECT_GE(skipped, 3) << "no update was skipped in the middle";
  return {skipped - 1, skipped};
}

void ExpectSameBits(const Layout& layout, const std::string& precision) {
  SCOPED_TRACE(layout.name() + " " + precision);
  const TinyRun run;
  const ProcessResult calm = Train(run, "calm", layout, precision);
  ASSERT_EQ(calm.code, 0) << calm.output;
  std::vector<int64_t> stops = Stops(run.Metrics("calm"), precision);
  stops.push_back(kSteps);
  for (const int64_t stop : stops) {
    const ProcessResult part =
        Train(run, "parts", layout, precision, {"--steps", std::to_string(stop)});
    ASSERT_EQ(part.code, 0) << part.output;
  }
  EXPECT_EQ(ComparableMetrics(run.Metrics("parts")), ComparableMetrics(run.Metrics("calm")));
  EXPECT_EQ(CompareCheckpoints(run.Checkpoint("parts", kSteps), run.Checkpoint("calm", kSteps)),
            std::vector<std::string>());
}

TEST(MpiResume, TheSameLayoutGivesTheSameBits) {
  const std::vector<Layout> layouts = {{1, 1, 0}, {1, 2, 0}, {1, 2, 1}, {1, 4, 0}, {1, 4, 1},
                                       {2, 1, 0}, {2, 2, 0}, {2, 2, 1}, {2, 4, 1}};
  const char* const precisions[] = {"FP16", "BF16", "FP32"};
  const bool full = std::getenv("SEPIA_FULL_RESUME") != nullptr;
  for (size_t i = 0; i < layouts.size(); ++i) {
    for (size_t p = 0; p < 3; ++p) {
      if (full || p == i % 3) ExpectSameBits(layouts[i], precisions[p]);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// The curve of one process, although every part has another layout: the same samples in the same
// order, and a checkpoint that every one of them can read.
TEST(MpiResume, AnotherLayoutGoesOnWhereTheLastOneStopped) {
  const TinyRun run;
  const std::string precision = "FP32";
  ASSERT_EQ(Train(run, "calm", {1, 1, 0}, precision).code, 0);
  int64_t stop = 0;
  for (const Layout& layout : {Layout{1, 1, 0}, {2, 2, 1}, {2, 1, 0}, {1, 4, 1}}) {
    stop += 3;
    const ProcessResult part =
        Train(run, "parts", layout, precision, {"--steps", std::to_string(stop)});
    ASSERT_EQ(part.code, 0) << part.output;
  }
  const auto calm = ReadMetrics(run.Metrics("calm"));
  const auto parts = ReadMetrics(run.Metrics("parts"));
  ASSERT_EQ(parts.size(), calm.size());
  for (size_t i = 0; i < calm.size(); ++i) {
    EXPECT_EQ(parts[i]["tokens"], calm[i]["tokens"]);
    // As MpiTrain.EveryLayoutFollowsTheCurveOfOneProcess; neighbouring steps differ by far more.
    EXPECT_NEAR(parts[i]["loss"].get<double>(), calm[i]["loss"].get<double>(), 1e-3);
  }
}

}  // namespace
}  // namespace sepia::testing
