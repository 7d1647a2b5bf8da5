// Faults that a run must notice, survive or refuse: P4, P8 to P12, P14 of docs/failure-modes.md.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/distributed/failure_modes.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kSteps = 24;
constexpr double kPatient = 100;

ProcessResult Calm(const TinyRun& run, const std::string& name, const Layout& layout,
                   const std::vector<std::string>& more = {}) {
  ProcessResult result =
      RunSepia(FaultyTrain(run, name, layout, kPatient, more), {.ranks = layout.ranks});
  EXPECT_EQ(result.code, 0) << result.output;
  return result;
}

// Not finite on one rank: skipped on all of them, in the same step, and nothing diverges.
TEST(NonFiniteTest, OneRanksGradientSkipsTheUpdateOnAll) {
  const TinyRun run;
  const Layout layout{3, 1, 0};
  const TimedResult result = RunWithFault(
      FaultyTrain(run, "a", layout, kPatient, {"--set", "safety.replica_check_steps=1"}),
      layout.ranks, "nan rank=1 step=5; inf rank=2 step=9");
  ASSERT_EQ(result.code, 0) << result.output;  // the replicas stayed equal, step by step
  const auto steps = ReadMetrics(run.Metrics("a"));
  ASSERT_EQ(steps.size(), static_cast<size_t>(kSteps));
  for (const auto& step : steps) {
    const bool bad = step["step"] == 5 || step["step"] == 9;
    EXPECT_EQ(step["skip"], bad) << step;
    EXPECT_EQ(step["nan"], bad) << step;
  }
  EXPECT_EQ(steps.back()["skipped"], 2);
  Promise({"P8", "NaN or infinity in one rank's gradient",
           "the update is skipped on all ranks together, counted, and the run goes on"});
}

TEST(NonFiniteTest, SeveralInARowEndTheRunAndNameTheRank) {
  const TinyRun run;
  const Layout layout{3, 1, 0};
  const TimedResult result = RunWithFault(
      FaultyTrain(run, "a", layout, kPatient, {"--set", "safety.max_skipped_in_a_row=3"}),
      layout.ranks, "nan rank=2");
  EXPECT_EQ(result.code, 70) << result.output;
  EXPECT_THAT(result.output, HasSubstr("not finite in 3 steps in a row"));
  EXPECT_THAT(result.output, HasSubstr("gpt_neox.embed_in.weight"));
  EXPECT_THAT(result.output, HasSubstr("rank 2 (on "));
  Promise({"P8", "NaN in one rank's gradient, `safety.max_skipped_in_a_row` steps in a row",
           "70; the tensor and the rank are named"});
}

// With three replicas a majority tells which one is wrong.
TEST(ReplicaTest, AFlippedBitIsFoundAndItsRankNamed) {
  const TinyRun run;
  const Layout layout{3, 1, 0};
  const std::vector<std::string> check = {"--set", "safety.replica_check_steps=4"};
  const TimedResult result = RunWithFault(FaultyTrain(run, "a", layout, kPatient, check),
                                          layout.ranks, "flip rank=2 step=9");
  EXPECT_EQ(result.code, 70) << result.output;
  // Step 10 saves, and compares before it does.
  EXPECT_THAT(result.output, HasSubstr("step 10: the weights or optimizer states of rank 2 (on "));
  EXPECT_THAT(result.output, Not(HasSubstr("rank 1 (on ")));
  EXPECT_FALSE(FileExists(run.Checkpoint("a", 10) + "/COMMIT"));
  // The next start goes on from before the fault.
  Calm(run, "a", layout, check);
  Calm(run, "calm", layout, check);
  ExpectSameRun(run, "a", "calm", kSteps);
  Promise(
      {"P9", "a bit of one rank's weights flips (`safety.replica_check_steps`)",
       "70 within that many steps and before the next save; of three ranks or more the wrong one "
       "is named; the next start continues bit for bit"});
}

TEST(ReplicaTest, SharedWeightsOfTensorRanksAreCompared) {
  const TinyRun run;
  const Layout layout{4, 2, 1};
  // The first weight of the vector is the embedding, which is cut over tensor ranks: two data ranks
  // hold each half.
  const TimedResult result = RunWithFault(
      FaultyTrain(run, "a", layout, kPatient, {"--set", "safety.replica_check_steps=1"}),
      layout.ranks, "flip rank=3 step=9");
  EXPECT_EQ(result.code, 70) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("step 9: the weights of rank 1 (on "),
                                   HasSubstr(", rank 3 (on "), HasSubstr("no majority")));
}

// A slow rank changes times and nothing else.
TEST(SlowRankTest, IsNamedAndChangesNoBits) {
  const TinyRun run;
  const Layout layout{3, 1, 0};
  const std::vector<std::string> log = {"--set", "logging.every_steps=8"};
  Calm(run, "calm", layout, log);
  const TimedResult result = RunWithFault(FaultyTrain(run, "a", layout, kPatient, log),
                                          layout.ranks, "slow rank=1 ms=150");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("rank 1 (on "));
  EXPECT_THAT(result.output, HasSubstr("is slow: "));
  int slowest = 0;
  const auto steps = ReadMetrics(run.Metrics("a"));
  for (const auto& step : steps) {
    const auto times = step["rank_step_ms"].get<std::vector<double>>();
    ASSERT_EQ(times.size(), 3u);
    EXPECT_GE(times[1], 150) << step;
    slowest += std::max_element(times.begin(), times.end()) == times.begin() + 1;
  }
  EXPECT_GT(slowest, static_cast<int>(steps.size()) / 2);
  ExpectSameRun(run, "a", "calm", kSteps);
  Promise({"P10", "a rank is slow",
           "a warning names it with its own time, the median rank's, data, compute and waiting; "
           "`rank_step_ms` has every step; the bits are those of a calm run"});
}

// The wall clock of one rank jumps a day forth and back while it trains.
TEST(ClockTest, JumpsChangeNothing) {
  if (!FileExists("/usr/bin/faketime")) {
    if (SharedIsRequired()) FAIL() << "faketime is not installed: scripts/install-deps";
    GTEST_SKIP() << "faketime is not installed";
  }
  const TinyRun run;
  const Layout layout{2, 1, 0};
  Calm(run, "calm", layout);
  const std::string clock = run.File("clock");
  const auto set_clock = [&](const char* offset) { std::ofstream(clock) << offset << "\n"; };
  set_clock("+0");
  const std::vector<std::string> args = FaultyTrain(run, "a", layout, 20);
  std::vector<std::string> words = args;
  words.insert(words.end(),
               {":", "-n", "1", "/usr/bin/env", "FAKETIME_TIMESTAMP_FILE=" + clock,
                "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1",
                "LD_PRELOAD=/usr/$LIB/faketime/libfaketimeMT.so.1", SEPIA_BINARY});
  words.insert(words.end(), args.begin(), args.end());
  SepiaProcess process(words, {.ranks = 1, .fault = "slow rank=0 ms=20"});  // and one more
  ASSERT_TRUE(WaitForLines(run.Metrics("a"), 4));
  set_clock("+1d");
  ASSERT_TRUE(WaitForLines(run.Metrics("a"), 12));
  set_clock("-1d");
  const ProcessResult result = process.Wait();
  ASSERT_EQ(result.code, 0) << result.output;
  ExpectSameRun(run, "a", "calm", kSteps);
  Promise({"P11", "the clock of one rank jumps by a day, forth and back",
           "nothing: no alarm, the same bits"});
}

// Ranks that cannot be the same run refuse before they write anything.
class MixedRanksTest : public ::testing::Test {
 protected:
  // One rank as `first`, one more with another program or other arguments.
  ProcessResult Mix(const std::vector<std::string>& first, const std::string& program,
                    const std::vector<std::string>& second) {
    std::vector<std::string> words = first;
    words.insert(words.end(), {":", "-n", "1", program});
    words.insert(words.end(), second.begin(), second.end());
    return RunSepia(words, {.ranks = 1});
  }

  const TinyRun run_;
};

TEST_F(MixedRanksTest, AnotherProgramIsNamed) {
  const std::string other = run_.File("sepia");
  std::filesystem::copy_file(SEPIA_BINARY, other);
  std::ofstream(other, std::ios::app | std::ios::binary) << "another build";
  const ProcessResult result = Mix(run_.Train("a"), other, run_.Train("a"));
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("the sepia program differs between ranks: rank 1 (on "));
  EXPECT_FALSE(FileExists(run_.RunDir("a")));
  Promise({"P12", "one rank runs another build", "2 before step 0; rank and node are named"});
}

TEST_F(MixedRanksTest, OtherDataIsNamed) {
  // The same config text must name different data: a link that each rank sees differently is what a
  // node with an old copy looks like.
  const std::vector<std::string> args = run_.Train(
      "a",
      {"--set", "data.train=[{prefix: \"data\"}]", "--set", "data.valid=[{prefix: \"data\"}]"});
  std::vector<std::string> words = args;
  std::filesystem::create_directory(run_.File("old"));
  for (const char* ending : {".idx", ".bin"}) {
    std::filesystem::copy_file(run_.File(std::string("data") + ending),
                               run_.File(std::string("old/data") + ending));
  }
  {
    std::fstream file(run_.File("old/data.bin"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file.put(7);
  }
  const std::vector<std::string> launcher = [&] {
    std::vector<std::string> launch = LaunchWords(1);
    launch.insert(launch.end(), {"--wdir", run_.File("")});
    return launch;
  }();
  words.insert(words.end(), {":", "-n", "1", "--wdir", run_.File("old"), SEPIA_BINARY});
  words.insert(words.end(), args.begin(), args.end());
  const ProcessResult result = RunSepia(words, {.launcher = launcher});
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("the training data differs between ranks: rank 1 (on "));
  Promise({"P12", "one rank has other training data", "2 before step 0; rank and node are named"});
}

TEST_F(MixedRanksTest, ADryRunComparesAndWritesNothing) {
  const std::vector<std::string> args = FaultyTrain(run_, "a", {4, 2, 1}, 3, {"--dry-run"});
  const ProcessResult result = RunSepia(args, {.ranks = 4});
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("4 ranks agree on program, config, parameter table"));
  for (const char* group : {"world group of 4 ranks", "data group of 2 ranks",
                            "tensor group of 2 ranks", "optimizer"}) {
    EXPECT_THAT(result.output, HasSubstr(group));
  }
  EXPECT_FALSE(FileExists(run_.RunDir("a")));
  std::vector<std::string> second = args;
  second.insert(second.end(), {"--set", "optimizer.lr=0.5"});
  const ProcessResult mixed = Mix(args, SEPIA_BINARY, second);
  EXPECT_EQ(mixed.code, 2) << mixed.output;
  Promise({"P12", "one rank has another config", "2 before step 0, also with `--dry-run`"});
}

// srun without PMIx would start as many trainings as there are tasks.
TEST(LauncherTest, TasksThatCannotFindEachOtherAreRefused) {
  const TinyRun run;
  const ProcessResult result =
      RunSepia(run.Train("a"), {.launcher = {"/usr/bin/env", "SLURM_STEP_NUM_TASKS=2"}});
  EXPECT_EQ(result.code, 78) << result.output;
  EXPECT_THAT(result.output, HasSubstr("srun --mpi=pmix"));
}

// What stops a run, and when: the first signal saves, whatever the ranks are doing.
struct StopCase {
  const char* name;
  int signal;
  const char* fault;  // keeps the ranks in a phase, so that the signal finds them there
  int lines;          // of metrics before the signal
};

class StopTest : public ::testing::TestWithParam<StopCase> {};

TEST_P(StopTest, FinishesTheStepSavesAndContinuesBitForBit) {
  const StopCase& c = GetParam();
  const TinyRun run;
  const Layout layout{2, 1, 1};
  Calm(run, "calm", layout);
  // mpirun ends ranks this long after it has passed SIGTERM on. Seconds.
  std::vector<std::string> launcher = LaunchWords(layout.ranks);
  launcher.insert(launcher.end(), {"--mca", "odls_base_sigkill_timeout", "3"});
  SepiaProcess process(FaultyTrain(run, "a", layout, kPatient),
                       {.launcher = launcher, .fault = c.fault});
  ASSERT_TRUE(c.lines > 0 ? WaitForLines(run.Metrics("a"), c.lines)
                          : WaitForFile(run.Metrics("a")));
  process.Signal(c.signal);
  const ProcessResult result = process.Wait();
  // mpirun turns SIGTERM and SIGINT into its own code.
  EXPECT_EQ(result.code, c.signal == SIGUSR1 ? 75 : 1) << result.output;
  const auto steps = static_cast<int64_t>(ReadMetrics(run.Metrics("a")).size());
  EXPECT_TRUE(FileExists(run.Checkpoint("a", steps) + "/COMMIT")) << result.output;
  EXPECT_LT(steps, kSteps);
  Calm(run, "a", layout);
  ExpectSameRun(run, "a", "calm", kSteps);
  Promise({"P4",
           fmt::format("{} to mpirun {}", c.signal == SIGUSR1 ? "SIGUSR1" : "SIGTERM", c.name),
           fmt::format("{}; the step is finished and saved; the next start continues bit for bit",
                       c.signal == SIGUSR1 ? "75" : "1 from mpirun, 75 from the ranks")});
}

INSTANTIATE_TEST_SUITE_P(
    Signals, StopTest,
    ::testing::Values(StopCase{"in the first step", SIGUSR1, "slow ms=300 step=1", 0},
                      StopCase{"during a validation", SIGUSR1, "slow ms=300 phase=validate", 5},
                      StopCase{"during a save", SIGUSR1, "slow ms=300 phase=save", 10},
                      StopCase{"in the middle of a step", SIGTERM, "slow ms=100 phase=backward",
                               2}),
    [](const auto& test) { return fmt::format("Case{}", test.index); });

TEST(StopTest2, TheSecondSignalEndsTheJobAtOnceAndHarmsNothing) {
  const TinyRun run;
  const Layout layout{2, 1, 0};
  Calm(run, "calm", layout);
  // A step that takes a minute: only the second signal can end it in time. Saves are done when
  // their step is.
  SepiaProcess process(FaultyTrain(run, "a", layout, kPatient, {"--set", "checkpoint.async=false"}),
                       {.ranks = layout.ranks, .fault = "slow ms=60000 step=9 phase=forward"});
  ASSERT_TRUE(WaitForLines(run.Metrics("a"), 8));
  process.Signal(SIGUSR1);
  SleepMilliseconds(300);
  process.Signal(SIGUSR1);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_THAT(result.output, HasSubstr("stopping now, without saving"));
  EXPECT_TRUE(FileExists(run.Checkpoint("a", 5) + "/COMMIT"));
  Calm(run, "a", layout);
  ExpectSameRun(run, "a", "calm", kSteps);
  Promise(
      {"P4", "SIGUSR1 to mpirun twice",
       "75 at once, without saving; complete checkpoints are untouched; the next start continues "
       "bit for bit"});
}

TEST(RunLockTest, TwoRunsInOneDirectoryAreTold) {
  const TinyRun run;
  const Layout layout{2, 1, 0};
  SepiaProcess first(FaultyTrain(run, "a", layout, kPatient),
                     {.ranks = layout.ranks, .fault = "slow ms=300"});
  ASSERT_TRUE(WaitForLines(run.Metrics("a"), 1));
  const ProcessResult second =
      RunSepia(FaultyTrain(run, "a", layout, kPatient), {.ranks = layout.ranks});
  EXPECT_EQ(second.code, 2) << second.output;
  EXPECT_THAT(second.output, HasSubstr("another run is using this directory: host "));
  first.Signal(SIGUSR1);
  EXPECT_EQ(first.Wait().code, 75);
  Promise({"P14", "two runs in one directory", "2 for the second; host and process of the first"});
}

}  // namespace
}  // namespace sepia::testing
