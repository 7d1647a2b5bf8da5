// How a run may begin (init_from), and the updates that it skips.
#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"

namespace sepia::testing {
namespace {

constexpr int64_t kSteps = 24;

void ExpectSuccess(const std::vector<std::string>& args) {
  const ProcessResult result = RunSepia(args);
  ASSERT_EQ(result.code, 0) << result.output;
}

// A run that begins with another run's weights, moments and position goes on as that one would.
TEST(StartTest, FromAWholeRunContinuesIt) {
  const TinyRun run;
  ExpectSuccess(run.Train("calm"));
  ExpectSuccess(run.Train("first", {"--steps", "10"}));
  ExpectSuccess(run.Train("second", {"--set", "init_from.path=" + run.RunDir("first"), "--set",
                                     "init_from.weights_only=false"}));
  const std::vector<std::string> calm = ComparableMetrics(run.Metrics("calm"));
  const std::vector<std::string> second = ComparableMetrics(run.Metrics("second"));
  ASSERT_EQ(second.size(), calm.size() - 10);
  // z-scores compare with the steps before, which the new run's metrics do not have.
  for (size_t i = 0; i < second.size(); ++i) {
    auto expected = nlohmann::json::parse(calm[i + 10]);
    auto actual = nlohmann::json::parse(second[i]);
    for (const char* name : {"loss_z", "grad_norm_z"}) {
      expected.erase(name);
      actual.erase(name);
    }
    EXPECT_EQ(actual, expected);
  }
  EXPECT_EQ(CompareCheckpoints(run.Checkpoint("second", kSteps), run.Checkpoint("calm", kSteps)),
            std::vector<std::string>());
}

TEST(StartTest, WeightsAloneStartANewSchedule) {
  const TinyRun run;
  ExpectSuccess(run.Train("first", {"--steps", "10"}));
  ExpectSuccess(
      run.Train("second", {"--steps", "1", "--set", "init_from.path=" + run.RunDir("first")}));
  const nlohmann::ordered_json step = ReadMetrics(run.Metrics("second")).at(0);
  EXPECT_EQ(step["step"], 1);
  EXPECT_EQ(step["lr"], ReadMetrics(run.Metrics("first")).at(0)["lr"]);
  // Trained weights, not random ones, whose loss is near ln 128.
  EXPECT_LT(step["loss"].get<double>(), ReadMetrics(run.Metrics("first")).at(0)["loss"]);
}

// Weights that have 10 steps behind them: the schedule and the samples go on, the moments do not,
// and the rate rises over the first updates.
TEST(StartTest, WeightsAloneCanGoOnWhereTheyStopped) {
  const TinyRun run;
  ExpectSuccess(run.Train("first", {"--set", "optimizer.clip=1"}));
  const std::string source = run.Checkpoint("first", 10);
  const auto start = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> args = {"--set", "init_from.path=" + source, "--set",
                                     "init_from.first_step=10"};
    args.insert(args.end(), more.begin(), more.end());
    ExpectSuccess(run.Train(name, args));
    return ReadMetrics(run.Metrics(name));
  };
  const auto first = ReadMetrics(run.Metrics("first"));
  const auto continued = start("continued", {"--set", "init_from.warmup_steps=4"});
  ASSERT_EQ(continued.size(), first.size() - 10);
  for (size_t i = 0; i < continued.size(); ++i) {
    EXPECT_EQ(continued[i]["step"], first[i + 10]["step"]);
    EXPECT_EQ(continued[i]["tokens"], first[i + 10]["tokens"]);
    const double expected = first[i + 10]["lr"].get<double>() * std::min(1.0, i / 4.0);
    EXPECT_DOUBLE_EQ(continued[i]["lr"].get<double>(), expected) << i;
  }
  // The same weights and the same samples, before any update.
  EXPECT_EQ(continued[0]["loss"], first[10]["loss"]);
  // A fresh schedule begins as the first run's did, on the samples that come next.
  const auto fresh = start("fresh", {"--set", "init_from.fresh_schedule=true"});
  EXPECT_EQ(fresh[0]["loss"], first[10]["loss"]);
  for (size_t i = 0; i < fresh.size(); ++i) EXPECT_EQ(fresh[i]["lr"], first[i]["lr"]);
  // And it goes on after a stop.
  ExpectSuccess(
      run.Train("parts", {"--steps", "15", "--set", "init_from.path=" + source, "--set",
                          "init_from.first_step=10", "--set", "init_from.warmup_steps=4"}));
  ExpectSuccess(
      run.Train("parts", {"--set", "init_from.path=" + source, "--set", "init_from.first_step=10",
                          "--set", "init_from.warmup_steps=4"}));
  EXPECT_EQ(ComparableMetrics(run.Metrics("parts")), ComparableMetrics(run.Metrics("continued")));
}

TEST(StartTest, WholeRunNeedsOptimizerState) {
  const TinyRun run;
  ExpectSuccess(run.Train("first", {"--steps", "2"}));
  ExpectSuccess({"convert", run.RunDir("first"), run.File("weights"), "--to", "hf"});
  const ProcessResult result =
      RunSepia(run.Train("second", {"--set", "init_from.path=" + run.File("weights"), "--set",
                                    "init_from.weights_only=false"}));
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_NE(result.output.find("has no optimizer state"), std::string::npos) << result.output;
}

TEST(StartTest, CommandsThatDoNotTrainRefuseTrainingSettings) {
  const TinyRun run;
  ExpectSuccess(run.Train("first", {"--steps", "1"}));
  const ProcessResult result =
      RunSepia({"eval", "--model", run.RunDir("first"), "--data", run.File("data"), "--set",
                "optimizer.lr=1e-3", "--set", "precision=BF16"});
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_NE(result.output.find("optimizer.lr (--set 'optimizer.lr=1e-3')"), std::string::npos)
      << result.output;
  EXPECT_EQ(result.output.find("precision"), std::string::npos) << result.output;
}

// More than any machine has: refused before a page is touched or a directory made.
TEST(StartTest, ARunThatNoMemoryHoldsIsRefusedBeforeAnythingIsMade) {
  const TinyRun run;
  const ProcessResult result = RunSepia(
      run.Train("huge", {"--set", "batch.micro=1048576", "--set", "batch.global=1048576", "--set",
                         "model.max_positions=65536", "--set", "data.sequence_length=65536"}));
  EXPECT_EQ(result.code, 78) << result.output;
  EXPECT_NE(result.output.find("do not fit in this machine's"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("`sepia check`"), std::string::npos) << result.output;
  EXPECT_FALSE(FileExists(run.RunDir("huge")));
}

// Every update whose gradient norm lies too far above the last ones, and no other, is skipped:
// weights and moments stay as they were.
TEST(SpikeTest, SkipsExactlyTheStepsAboveTheLimit) {
  const TinyRun run;
  constexpr double kLimit = 0.5;
  ExpectSuccess(run.Train("run", {"--set", "safety.skip_grad_norm_zscore=0.5", "--set",
                                  "checkpoint.every_steps=1", "--set", "eval.every_steps=0"}));
  int64_t skipped = 0;
  for (const nlohmann::ordered_json& step : ReadMetrics(run.Metrics("run"))) {
    const bool measured = step["grad_norm_z"].is_number();
    const bool spike = measured && step["grad_norm_z"].get<double>() > kLimit;
    EXPECT_EQ(step["skip"].get<bool>(), spike) << step;
    skipped += spike;
    EXPECT_EQ(step["skipped"], skipped);
    const auto number = step["step"].get<int64_t>();
    if (number == 1) continue;
    const std::vector<std::string> changed =
        CompareCheckpoints(run.Checkpoint("run", number), run.Checkpoint("run", number - 1));
    EXPECT_EQ(changed.size() > 1, !spike) << step;  // the train state always moves on
  }
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, kSteps / 2);
}

}  // namespace
}  // namespace sepia::testing
