// scripts/supervise: which codes it answers with another start, when it gives up, how it stops.
#include <signal.h>

#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/distributed/failure_modes.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> Supervised(const std::string& checkpoints, int ranks) {
  std::vector<std::string> words = {SourcePath("scripts/supervise"), "--checkpoints", checkpoints,
                                    "--"};
  const std::vector<std::string> launch = LaunchWords(ranks);
  words.insert(words.end(), launch.begin(), launch.end());
  return words;
}

// A command in the place of sepia: `script` runs with $0 = a counter file.
ProcessResult SuperviseScript(const TinyRun& run, const std::string& script) {
  ProcessOptions options;
  options.launcher = {SourcePath("scripts/supervise"),
                      "--checkpoints",
                      run.File("checkpoints"),
                      "--",
                      "/bin/bash",
                      "-c",
                      script};
  return RunSepia({}, options);
}

std::string Starts(const TinyRun& run) { return ReadFile(run.File("starts")); }

TEST(SuperviseTest, GivesUpAfterThreeStartsWithoutACheckpoint) {
  const TinyRun run;
  const ProcessResult result =
      SuperviseScript(run, fmt::format("echo x >> {}; exit 71", run.File("starts")));
  EXPECT_EQ(result.code, 71) << result.output;
  EXPECT_EQ(Starts(run), "x\nx\nx\n");
  EXPECT_THAT(result.output, HasSubstr("giving up"));
}

TEST(SuperviseTest, PassesOnWhatAnotherStartDoesNotMend) {
  for (const int code : {0, 2, 65, 70, 73, 75, 78}) {
    const TinyRun run;
    const ProcessResult result =
        SuperviseScript(run, fmt::format("echo x >> {}; exit {}", run.File("starts"), code));
    EXPECT_EQ(result.code, code) << result.output;
    EXPECT_EQ(Starts(run), "x\n");
  }
}

// A start that leaves a newer checkpoint begins the count again.
TEST(SuperviseTest, CountsStartsWithoutProgressOnly) {
  const TinyRun run;
  const ProcessResult result = SuperviseScript(
      run, fmt::format("echo x >> {0}; n=$(wc -l < {0}); [ $n -eq 6 ] && exit 0; "
                       "if [ $n -eq 2 ] || [ $n -eq 4 ]; then d={1}/step_$n; mkdir -p $d; "
                       "touch $d/COMMIT; fi; exit 205",
                       run.File("starts"), run.File("checkpoints")));
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_EQ(Starts(run), "x\nx\nx\nx\nx\nx\n");
}

TEST(SuperviseTest, RestartsAKilledRunUntilItIsDone) {
  const TinyRun run;
  const Layout layout{2, 1, 0};
  ASSERT_EQ(RunSepia(FaultyTrain(run, "calm", layout), {.ranks = 2}).code, 0);
  ProcessOptions options;
  options.launcher = Supervised(run.RunDir("a") + "/checkpoints", layout.ranks);
  // Strikes in every start that comes to step 12: resuming from 10, each start would die there.
  options.fault = "kill rank=1 step=12";
  const ProcessResult stuck = RunSepia(FaultyTrain(run, "a", layout), options);
  EXPECT_EQ(stuck.code, 137) << stuck.output;
  EXPECT_THAT(stuck.output, HasSubstr("three starts without a new checkpoint"));
  options.fault.clear();
  const ProcessResult result = RunSepia(FaultyTrain(run, "a", layout), options);
  EXPECT_EQ(result.code, 0) << result.output;
  ExpectSameRun(run, "a", "calm", 24);
}

TEST(SuperviseTest, AnInterruptStopsTheRunWithACheckpoint) {
  const TinyRun run;
  const Layout layout{2, 1, 0};
  ProcessOptions options;
  options.launcher = Supervised(run.RunDir("a") + "/checkpoints", layout.ranks);
  options.fault = "slow ms=100";
  SepiaProcess process(FaultyTrain(run, "a", layout, 20), options);
  ASSERT_TRUE(WaitForLines(run.Metrics("a"), 3));
  process.Signal(SIGINT);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_THAT(result.output, Not(HasSubstr("starting again")));
  const auto steps = static_cast<int64_t>(ReadMetrics(run.Metrics("a")).size());
  EXPECT_TRUE(FileExists(run.Checkpoint("a", steps) + "/COMMIT"));
}

}  // namespace
}  // namespace sepia::testing
