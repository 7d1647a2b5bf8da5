// Faults that a run must notice, survive or refuse: P8 to P12, P14 of docs/failure-modes.md.
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

class NonFiniteTest : public FaultTest {};
class ReplicaTest : public FaultTest {};
class SlowRankTest : public FaultTest {};
class ClockTest : public FaultTest {};
class RunLockTest : public FaultTest {};

// Not finite on one rank: skipped on all of them, in the same step, and nothing diverges.
TEST_F(NonFiniteTest, OneRanksGradientSkipsTheUpdateOnAll) {
  layout_ = {3, 1, 0};
  options_ = {"--set", "safety.replica_check_steps=1"};
  const TimedResult result = Fail("nan rank=1 step=5; inf rank=2 step=9");
  ASSERT_EQ(result.code, 0) << result.output;  // the replicas stayed equal, step by step
  const auto steps = ReadMetrics(run_.Metrics("a"));
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

TEST_F(NonFiniteTest, SeveralInARowEndTheRunAndNameTheRank) {
  layout_ = {3, 1, 0};
  options_ = {"--set", "safety.max_skipped_in_a_row=3"};
  const TimedResult result = Fail("nan rank=2");
  EXPECT_EQ(result.code, 70) << result.output;
  EXPECT_THAT(result.output, HasSubstr("not finite in 3 steps in a row"));
  EXPECT_THAT(result.output, HasSubstr("gpt_neox.embed_in.weight"));
  EXPECT_THAT(result.output, HasSubstr("rank 2 (on "));
  Promise({"P8", "NaN in one rank's gradient, `safety.max_skipped_in_a_row` steps in a row",
           "70; the tensor and the rank are named"});
}

// With three replicas a majority tells which one is wrong.
TEST_F(ReplicaTest, AFlippedBitIsFoundAndItsRankNamed) {
  layout_ = {3, 1, 0};
  // Step 5 is saved when step 9 begins.
  options_ = {"--set", "safety.replica_check_steps=4", "--set", "checkpoint.async=false"};
  const TimedResult result = Fail("flip rank=2 step=9");
  EXPECT_EQ(result.code, 70) << result.output;
  // Step 10 saves, and compares before it does.
  EXPECT_THAT(result.output, HasSubstr("step 10: the weights or optimizer states of rank 2 (on "));
  EXPECT_THAT(result.output, Not(HasSubstr("rank 1 (on ")));
  EXPECT_FALSE(FileExists(run_.Checkpoint("a", 10) + "/COMMIT"));
  ExpectTheSameAfterAnotherStart();  // from before the fault
  Promise(
      {"P9", "a bit of one rank's weights flips (`safety.replica_check_steps`)",
       "70 within that many steps and before the next save; of three ranks or more the wrong one "
       "is named; the next start continues bit for bit"});
}

TEST_F(ReplicaTest, SharedWeightsOfTensorRanksAreCompared) {
  layout_ = {4, 2, 1};
  options_ = {"--set", "safety.replica_check_steps=1"};
  // The first weight of the vector is the embedding, which is cut over tensor ranks: two data ranks
  // hold each half.
  const TimedResult result = Fail("flip rank=3 step=9");
  EXPECT_EQ(result.code, 70) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("step 9: the weights of rank 1 (on "),
                                   HasSubstr(", rank 3 (on "), HasSubstr("no majority")));
}

// A slow rank changes times and nothing else.
TEST_F(SlowRankTest, IsNamedAndChangesNoBits) {
  layout_ = {3, 1, 0};
  options_ = {"--set", "logging.every_steps=8"};
  const TimedResult result = Fail("slow rank=1 ms=150");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("rank 1 (on "));
  EXPECT_THAT(result.output, HasSubstr("is slow: "));
  int slowest = 0;
  const auto steps = ReadMetrics(run_.Metrics("a"));
  for (const auto& step : steps) {
    const auto times = step["rank_step_ms"].get<std::vector<double>>();
    ASSERT_EQ(times.size(), 3u);
    EXPECT_GE(times[1], 150) << step;
    slowest += std::max_element(times.begin(), times.end()) == times.begin() + 1;
  }
  EXPECT_GT(slowest, static_cast<int>(steps.size()) / 2);
  ExpectTheBitsOfACalmRun();
  Promise({"P10", "a rank is slow",
           "a warning names it with its own time, the median rank's, data, compute and waiting; "
           "`rank_step_ms` has every step; the bits are those of a calm run"});
}

// The wall clock of one rank jumps a day forth and back while it trains.
TEST_F(ClockTest, JumpsChangeNothing) {
  if (!FileExists("/usr/bin/faketime")) {
    if (SharedIsRequired()) FAIL() << "faketime is not installed: scripts/install-deps";
    GTEST_SKIP() << "faketime is not installed";
  }
  const std::string clock = run_.File("clock");
  const auto set_clock = [&](const char* offset) { std::ofstream(clock) << offset << "\n"; };
  set_clock("+0");
  const std::vector<std::string> args = Train("a", 20);
  std::vector<std::string> words = args;
  words.insert(words.end(),
               {":", "-n", "1", "/usr/bin/env", "FAKETIME_TIMESTAMP_FILE=" + clock,
                "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1",
                "LD_PRELOAD=/usr/$LIB/faketime/libfaketimeMT.so.1", SEPIA_BINARY});
  words.insert(words.end(), args.begin(), args.end());
  SepiaProcess process(words, {.ranks = 1, .fault = "slow rank=0 ms=20"});  // and one more
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 4));
  set_clock("+1d");
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 12));
  set_clock("-1d");
  const ProcessResult result = process.Wait();
  ASSERT_EQ(result.code, 0) << result.output;
  ExpectTheBitsOfACalmRun();
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
  const std::vector<std::string> args = FaultyTrain(run_, "a", {4, 2, 1}, kPatient, {"--dry-run"});
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

TEST_F(RunLockTest, TwoRunsInOneDirectoryAreTold) {
  options_ = EndlessOptions();  // the first outlives the second
  SepiaProcess first = Start("slow ms=100");
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 1));
  const ProcessResult second = RunSepia(Train("a", kPatient), {.ranks = layout_.ranks});
  EXPECT_EQ(second.code, 2) << second.output;
  EXPECT_THAT(second.output, HasSubstr("another run is using this directory: host "));
  first.Signal(SIGUSR1);
  EXPECT_EQ(first.Wait().code, 75);
  Promise({"P14", "two runs in one directory", "2 for the second; host and process of the first"});
}

}  // namespace
}  // namespace sepia::testing
