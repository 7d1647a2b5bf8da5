// What a run does when somebody or something gets in its way.
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/file.h"
#include "checkpoint/reader.h"
#include "data/indexed_dataset.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"

namespace sepia::testing {
namespace {

const std::vector<std::string> kEndless = {"--set", "schedule.total_steps=1000000",
                                           "--set", "eval.every_steps=0",
                                           "--set", "data.order=LINEAR",
                                           "--set", "data.sequence_length=16"};

std::vector<std::string> Endless(const std::vector<std::string>& more = {}) {
  std::vector<std::string> args = kEndless;
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

int64_t LastMetricsStep(const std::string& path) {
  return static_cast<int64_t>(ComparableMetrics(path).size());
}

class StopSignalTest : public ::testing::TestWithParam<int> {};

TEST_P(StopSignalTest, FinishesTheStepSavesAndCanBeResumed) {
  const TinyRun run;
  SepiaProcess process(run.Train("a", Endless()));
  ASSERT_TRUE(WaitForLines(run.Metrics("a"), 7));
  process.Signal(GetParam());
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  const int64_t step = LastMetricsStep(run.Metrics("a"));
  const checkpoint::CheckpointReader reader(run.Checkpoint("a", step));
  EXPECT_EQ(reader.VerifyDeep(), std::vector<std::string>());
  const ProcessResult resumed =
      RunSepia(run.Train("a", Endless({"--steps", std::to_string(step + 2)})));
  EXPECT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(LastMetricsStep(run.Metrics("a")), step + 2);
}

INSTANTIATE_TEST_SUITE_P(Signals, StopSignalTest, ::testing::Values(SIGUSR1, SIGTERM, SIGINT));

TEST(InterruptionTest, ASecondSignalStopsAtOnceAndLeavesOlderCheckpointsAlone) {
  const TinyRun run;
  SepiaProcess process(run.Train("a", Endless()));
  ASSERT_TRUE(WaitForFile(run.Checkpoint("a", 5) + "/COMMIT"));
  process.Signal(SIGINT);
  process.Signal(SIGTERM);  // another number, so that the kernel cannot merge the two
  EXPECT_EQ(process.Wait().code, 75);
  const checkpoint::CheckpointReader reader(run.Checkpoint("a", 5));
  EXPECT_EQ(reader.VerifyDeep(), std::vector<std::string>());
  EXPECT_EQ(RunSepia(run.Train("a", Endless({"--steps", "6"}))).code, 0);
}

TEST(InterruptionTest, WallTimeStopsTheRunAndSavesIt) {
  // Once more with more time where a busy machine needs all of it for the start.
  for (const int seconds : {3, 20, 120}) {
    const TinyRun run;
    const Timer timer;
    const ProcessResult result =
        RunSepia(run.Train("a", Endless({"--max-wall-time", fmt::format("{}s", seconds)})));
    ASSERT_EQ(result.code, 75) << result.output;
    const int64_t step = LastMetricsStep(run.Metrics("a"));
    if (step > 0) {
      EXPECT_TRUE(FileExists(run.Checkpoint("a", step) + "/COMMIT"));
      return;
    }
    ASSERT_GE(timer.Seconds(), seconds) << result.output;
  }
  FAIL() << "nothing was trained";
}

TEST(InterruptionTest, ASecondRunInTheSameDirectoryIsRefused) {
  const TinyRun run;
  SepiaProcess first(run.Train("a", Endless()));
  ASSERT_TRUE(WaitForLines(run.Metrics("a"), 1));
  const ProcessResult second = RunSepia(run.Train("a", Endless()));
  EXPECT_EQ(second.code, 2);
  EXPECT_NE(second.output.find(fmt::format("process {}", first.pid())), std::string::npos)
      << second.output;
  first.Signal(SIGUSR1);
  EXPECT_EQ(first.Wait().code, 75);
}

TEST(InterruptionTest, AnotherArchitectureIsRefusedWithTheFields) {
  const TinyRun run;
  ASSERT_EQ(RunSepia(run.Train("a", {"--steps", "5"})).code, 0);
  const std::string metrics = ReadFile(run.Metrics("a"));
  const ProcessResult other =
      RunSepia(run.Train("a", {"--set", "model.attention.window=7", "--set", "seed=5"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.output.find("model.attention.window"), std::string::npos) << other.output;
  EXPECT_NE(other.output.find("seed: 1234 -> 5"), std::string::npos) << other.output;
  EXPECT_EQ(ReadFile(run.Metrics("a")), metrics);
  // A learning rate may change: it is listed, and the run goes on.
  const ProcessResult rate =
      RunSepia(run.Train("a", {"--steps", "6", "--set", "optimizer.lr=2e-2"}));
  EXPECT_EQ(rate.code, 0) << rate.output;
  EXPECT_NE(rate.output.find("optimizer.lr: 0.01 -> 0.02"), std::string::npos) << rate.output;
}

// The data is told by its content: the same path with another text in it is another run.
TEST(InterruptionTest, OtherDataIsRefused) {
  const TinyRun run;
  ASSERT_EQ(RunSepia(run.Train("a", {"--steps", "5"})).code, 0);
  const std::string metrics = ReadFile(run.Metrics("a"));
  std::filesystem::remove(run.File("data.bin"));
  std::filesystem::remove(run.File("data.idx"));
  {
    data::IndexedDatasetWriter writer(run.File("data"), DType::kUInt16);
    writer.AddDocument(std::vector<int32_t>(2000, 1));
    writer.Finish();
  }
  const ProcessResult other = RunSepia(run.Train("a"));
  EXPECT_EQ(other.code, 2) << other.output;
  EXPECT_NE(other.output.find("the training data or its order"), std::string::npos) << other.output;
  EXPECT_EQ(ReadFile(run.Metrics("a")), metrics);
}

TEST(InterruptionTest, ADeviceWithoutABackendIs78) {
  const TinyRun run;
  const ProcessResult result = RunSepia(run.Train("a", {"--set", "device=CUDA"}));
  EXPECT_EQ(result.code, 78) << result.output;
  EXPECT_FALSE(FileExists(run.RunDir("a")));
}

TEST(InterruptionTest, FreshRefusesToOverwrite) {
  const TinyRun run;
  ASSERT_EQ(RunSepia(run.Train("a", {"--steps", "2", "--fresh"})).code, 0);
  const std::string metrics = ReadFile(run.Metrics("a"));
  EXPECT_EQ(RunSepia(run.Train("a", {"--fresh"})).code, 2);
  EXPECT_EQ(ReadFile(run.Metrics("a")), metrics);
}

// A leftover of a killed save is no checkpoint and does not stand in the way.
TEST(InterruptionTest, LeftoversDoNotBlockAFreshStart) {
  const TinyRun run;
  std::filesystem::create_directories(run.Checkpoint("a", 5) + ".tmp-0123abcd");
  EXPECT_EQ(RunSepia(run.Train("a", {"--steps", "2", "--fresh"})).code, 0);
}

// As a full disk: files past the limit cannot be written.
TEST(InterruptionTest, FailedSavesKeepTheOldCheckpointAndEndWith73) {
  const TinyRun run;
  ASSERT_EQ(RunSepia(run.Train("a", {"--steps", "5"})).code, 0);
  const ProcessOptions full = {.max_file_bytes = 64 << 10};
  const ProcessResult result = RunSepia(
      run.Train("a", {"--set", "checkpoint.every_steps=3", "--set", "checkpoint.max_failures=3"}),
      full);
  EXPECT_EQ(result.code, 73) << result.output;
  EXPECT_NE(result.output.find("checkpoint not saved (1 of 2"), std::string::npos) << result.output;
  EXPECT_GE(LastMetricsStep(run.Metrics("a")), 9) << "the run should go on after a failed save";
  const checkpoint::CheckpointReader reader(run.Checkpoint("a", 5));
  EXPECT_EQ(reader.VerifyDeep(), std::vector<std::string>());
  EXPECT_EQ(RunSepia(run.Train("a")).code, 0);
  EXPECT_EQ(LastMetricsStep(run.Metrics("a")), 24);
}

TEST(InterruptionTest, APlaceThatCannotBeWrittenIs73) {
  const TinyRun run;
  std::ofstream(run.File("file")) << "not a directory";
  EXPECT_EQ(RunSepia(run.Train("file/run")).code, 73);
}

TEST(InterruptionTest, DivergenceIs70) {
  const TinyRun run;
  const ProcessResult result =
      RunSepia(run.Train("a", {"--set", "optimizer.lr=1e30", "--set", "optimizer.clip=0", "--set",
                               "safety.max_skipped_in_a_row=3"}));
  EXPECT_EQ(result.code, 70) << result.output;
}

}  // namespace
}  // namespace sepia::testing
