// scripts/supervise: which codes it answers with another start, when it gives up, how it stops.
#include <signal.h>

#include <fstream>
#include <string>
#include <vector>

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

// A bash script in the place of sepia. `environment`: NAME=VALUE for supervise.
ProcessResult SuperviseScript(const TinyRun& run, const std::string& script,
                              const std::string& environment = "SEPIA_FAULT=") {
  ProcessOptions options;
  options.launcher = {"/usr/bin/env",
                      environment,
                      SourcePath("scripts/supervise"),
                      "--checkpoints",
                      run.File("checkpoints"),
                      "--",
                      "/bin/bash",
                      "-c",
                      script};
  return RunSepia({}, options);
}

std::string Starts(const TinyRun& run) {
  return FileExists(run.File("starts")) ? ReadFile(run.File("starts")) : "";
}

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

// mpirun does not wait for ranks that it has killed, and those with much memory take a while to go.
TEST(SuperviseTest, StartsAgainWhenTheRunsLockIsFree) {
  const TinyRun run;
  const ProcessResult result =
      SuperviseScript(run, fmt::format("cd {}\n"
                                       "exec 5>lock; flock -n 5 || exit 2\n"
                                       "echo x >>starts; [ $(wc -l <starts) -eq 1 ] || exit 0\n"
                                       "mkdir -p checkpoints/step_1; : >checkpoints/step_1/COMMIT\n"
                                       "setsid sleep 1 & exit 137\n",
                                       run.File("")));
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_EQ(Starts(run), "x\nx\n");
}

// Whichever of its commands the script is about to begin when the request comes. Of the two starts,
// the first leaves a checkpoint and fails, the second is done soon: where nobody has asked yet.
// Else they wait for the signal.
TEST(SuperviseTest, ARequestIsHeardAtEveryPlaceOfTheScript) {
  int places = 0;
  for (bool sent = true; sent; ++places) {
    SCOPED_TRACE(places);
    const TinyRun run;
    // Bash reads this before the script: a trap that runs before each of its commands.
    std::ofstream(run.File("hook")) << fmt::format(
        "unset BASH_ENV; place=-1\n"
        "look() {{\n"
        "  if [ $place -lt 0 ] && [ -z \"$(trap -p INT)\" ]; then return; fi\n"
        "  place=$((place + 1))\n"
        "  if [ $place -eq {} ]; then : >{}; kill -INT $$; fi\n"
        "}}\n"
        "trap look DEBUG\n",
        places, run.File("sent"));
    const std::string script = fmt::format(
        "trap 'exit 75' USR1\n"
        "cd {}\n"
        "echo x >>starts\n"
        "if [ $(wc -l <starts) -eq 1 ]; then\n"
        "  mkdir -p checkpoints/step_1; : >checkpoints/step_1/COMMIT\n"
        "  if [ ! -e sent ]; then : >failed; exit 71; fi\n"
        "fi\n"
        "sleep 0.1\n"
        "if [ ! -e sent ]; then : >done; exit 0; fi\n"
        "for ((i = 0; i < 1000; ++i)); do sleep 0.01; done\n"
        "exit 3  # the request is lost\n",
        run.File(""));
    const ProcessResult result = SuperviseScript(run, script, "BASH_ENV=" + run.File("hook"));
    sent = FileExists(run.File("sent"));
    const bool was_done = FileExists(run.File("done"));
    const bool had_failed = FileExists(run.File("failed")) && Starts(run) == "x\n";
    EXPECT_TRUE(result.code == 75 || (was_done && result.code == 0) ||
                (had_failed && result.code == 71))
        << result.code << "\n"
        << result.output;
  }
  EXPECT_GT(places, 25);  // two rounds
}

// As a rank does whose program is still being loaded.
TEST(SuperviseTest, ACommandThatDoesNotListenYetIsStoppedToo) {
  const TinyRun run;
  const ProcessResult result = SuperviseScript(run, "kill -INT $PPID; sleep 2; exit 3");
  EXPECT_EQ(result.code, 75) << result.output;
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
  options.fault = "slow ms=300";  // far from its end when the request arrives
  SepiaProcess process(FaultyTrain(run, "a", layout), options);
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
