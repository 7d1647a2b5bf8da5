// Whole runs under mpirun: the curve of one process, checkpoints by all ranks, resume bit for bit,
// and failures that name their cause once.
#include <signal.h>

#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSteps = 24;

struct Layout {
  int ranks, tensor, zero;
  bool sequence = false;
  std::string name() const {
    return fmt::format("{}x{}z{}{}", ranks, tensor, zero, sequence ? "s" : "");
  }
};

std::vector<std::string> LayoutArgs(const Layout& layout) {
  return {"--set", "batch.micro=1",
          "--set", fmt::format("parallel.tensor={}", layout.tensor),
          "--set", fmt::format("parallel.zero_stage={}", layout.zero),
          "--set", fmt::format("parallel.sequence={}", layout.sequence),
          "--set", "threads=1"};
}

std::vector<std::string> TrainArgs(const TinyRun& run, const std::string& name,
                                   const Layout& layout, std::vector<std::string> more = {}) {
  const std::vector<std::string> args = LayoutArgs(layout);
  more.insert(more.end(), args.begin(), args.end());
  return run.Train(name, more);
}

ProcessResult Train(const TinyRun& run, const std::string& name, const Layout& layout,
                    const std::vector<std::string>& more = {}) {
  return RunSepia(TrainArgs(run, name, layout, more), {.ranks = layout.ranks});
}

// A run that goes on until it is stopped.
SepiaProcess StartEndlessRun(const TinyRun& run, const std::string& name, const Layout& layout) {
  return SepiaProcess(TrainArgs(run, name, layout, EndlessOptions()), {.ranks = layout.ranks});
}

std::vector<double> Losses(const std::string& metrics) {
  std::vector<double> losses;
  for (const nlohmann::ordered_json& step : ReadMetrics(metrics)) losses.push_back(step["loss"]);
  return losses;
}

TEST(MpiTrain, EveryLayoutFollowsTheCurveOfOneProcess) {
  const TinyRun run;
  ASSERT_EQ(RunSepia(run.Train("one", LayoutArgs({1, 1, 0}))).code, 0);
  const std::vector<double> expected = Losses(run.Metrics("one"));
  ASSERT_EQ(expected.size(), static_cast<size_t>(kSteps));
  for (const Layout& layout : {Layout{2, 1, 0}, {2, 2, 0}, {4, 2, 1}, {4, 1, 1}, {4, 2, 2, true}}) {
    SCOPED_TRACE(layout.name());
    const ProcessResult result = Train(run, layout.name(), layout);
    ASSERT_EQ(result.code, 0) << result.output;
    EXPECT_EQ(Count(result.output, "done after step 24/24"), 1u) << result.output;
    const std::vector<double> losses = Losses(run.Metrics(layout.name()));
    ASSERT_EQ(losses.size(), expected.size());
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], expected[i], 1e-3);
    for (int rank = 0; rank < layout.ranks; ++rank) {
      const std::string log =
          ReadFile(fmt::format("{}/logs/rank_{}.log", run.RunDir(layout.name()), rank));
      EXPECT_THAT(log, HasSubstr("done after step 24/24"));
    }
  }
}

// A shard a rank; what is saved and loaded again is every bit of the run.
TEST(MpiTrain, ResumesBitForBitOnTheSameLayout) {
  const TinyRun run;
  const Layout layout{4, 2, 2, /*sequence=*/true};
  ASSERT_EQ(Train(run, "calm", layout).code, 0);
  const std::string checkpoint = run.Checkpoint("calm", kSteps);
  EXPECT_TRUE(FileExists(checkpoint + "/shard-00003-of-00004.sck"));
  EXPECT_EQ(RunSepia({"checkpoint", "verify", checkpoint}).code, 0);

  ASSERT_EQ(Train(run, "parts", layout, {"--steps", "7"}).code, 0);
  {
    SepiaProcess process(TrainArgs(run, "parts", layout), {.ranks = layout.ranks});
    ASSERT_TRUE(WaitForLines(run.Metrics("parts"), 13));
    process.Signal(SIGKILL);
    process.Wait();
  }
  const ProcessResult last =
      RunSepiaWhenFree(TrainArgs(run, "parts", layout), {.ranks = layout.ranks});
  ASSERT_EQ(last.code, 0) << last.output;
  EXPECT_THAT(last.output, HasSubstr("resuming"));
  EXPECT_EQ(ComparableMetrics(run.Metrics("parts")), ComparableMetrics(run.Metrics("calm")));
  EXPECT_EQ(CompareCheckpoints(run.Checkpoint("parts", kSteps), checkpoint),
            std::vector<std::string>());
}

TEST(MpiTrain, SignalToMpirunStopsAfterTheStepWithACheckpoint) {
  const TinyRun run;
  const Layout layout{2, 2, 0};
  SepiaProcess process = StartEndlessRun(run, "stopped", layout);
  ASSERT_TRUE(WaitForLines(run.Metrics("stopped"), 3));
  process.Signal(SIGUSR1);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  const size_t steps = Losses(run.Metrics("stopped")).size();
  EXPECT_TRUE(FileExists(run.Checkpoint("stopped", static_cast<int64_t>(steps)) + "/COMMIT"));
}

TEST(MpiTrain, FaultsOfTheConfigAreReportedOnce) {
  const TinyRun run;
  const ProcessResult result = Train(run, "bad", {3, 2, 0});
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_EQ(Count(result.output, "does not divide the 3 ranks"), 1u) << result.output;
}

TEST(MpiTrain, ASecondRunInTheSameDirectoryIsRefused) {
  const TinyRun run;
  const Layout layout{2, 1, 0};
  SepiaProcess process = StartEndlessRun(run, "shared", layout);
  ASSERT_TRUE(WaitForLines(run.Metrics("shared"), 1));
  const ProcessResult second = Train(run, "shared", layout);
  EXPECT_EQ(second.code, 2) << second.output;
  EXPECT_EQ(Count(second.output, "another run is using this directory"), 1u) << second.output;
  process.Signal(SIGUSR1);
  EXPECT_EQ(process.Wait().code, 75);
}

TEST(MpiTrain, RanksWithDifferentConfigsAreNamed) {
  const TinyRun run;
  const std::vector<std::string> first = run.Train("mixed", {"--set", "seed=1"});
  std::vector<std::string> words = first;
  words.insert(words.end(), {":", "-n", "1", SEPIA_BINARY});
  const std::vector<std::string> second = run.Train("mixed", {"--set", "seed=2"});
  words.insert(words.end(), second.begin(), second.end());
  const ProcessResult result = RunSepia(words, {.ranks = 1});  // and one more
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("the resolved config (its SHA-256) differs between ranks: "
                                       "rank 1 (on "));
}

}  // namespace
}  // namespace sepia::testing
