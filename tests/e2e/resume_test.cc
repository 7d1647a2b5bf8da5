// N steps equal k steps, a kill and N - k steps more, bit for bit.
#include <signal.h>

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/philox.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"

namespace sepia::testing {
namespace {

constexpr int64_t kSteps = 24;

std::vector<std::string> PrecisionArgs(const std::string& precision) {
  std::vector<std::string> args = {"--set", "precision=" + precision};
  if (precision == "FP16") {
    // So high that the first steps overflow and are skipped, and grown again in the middle.
    args.insert(args.end(),
                {"--set", "loss_scale.initial_scale_power=24", "--set", "loss_scale.window=6"});
  }
  return args;
}

class ResumeTest : public ::testing::TestWithParam<const char*> {
 protected:
  void RunCalm() {
    const ProcessResult result = RunSepia(run_.Train("calm", args_));
    ASSERT_EQ(result.code, 0) << result.output;
  }
  void ExpectEqualToCalm(const std::string& name) {
    EXPECT_EQ(ComparableMetrics(run_.Metrics(name)), ComparableMetrics(run_.Metrics("calm")));
    EXPECT_EQ(CompareCheckpoints(run_.Checkpoint(name, kSteps), run_.Checkpoint("calm", kSteps)),
              std::vector<std::string>());
  }

  TinyRun run_;
  std::vector<std::string> args_ = PrecisionArgs(GetParam());
};

// Killed in the first epoch and again in the second, between checkpoints.
TEST_P(ResumeTest, AfterKillsInBothEpochs) {
  RunCalm();
  for (const int lines : {8, 17}) {
    SepiaProcess process(run_.Train("killed", args_));
    ASSERT_TRUE(WaitForLines(run_.Metrics("killed"), lines));
    process.Signal(SIGKILL);
    process.Wait();
  }
  const ProcessResult last = RunSepia(run_.Train("killed", args_));
  ASSERT_EQ(last.code, 0) << last.output;
  EXPECT_NE(last.output.find("resuming"), std::string::npos) << last.output;
  ExpectEqualToCalm("killed");
  if (std::string(GetParam()) == "FP16") {
    EXPECT_GT(CountSkipped(run_.Metrics("calm")), 0);
    EXPECT_LT(CountSkipped(run_.Metrics("calm")), kSteps / 2);
  }
}

TEST_P(ResumeTest, AfterStoppingAtAStep) {
  RunCalm();
  for (const char* step : {"3", "13", "20"}) {
    std::vector<std::string> args = args_;
    args.insert(args.end(), {"--steps", step});
    const ProcessResult part = RunSepia(run_.Train("parts", args));
    ASSERT_EQ(part.code, 0) << part.output;
  }
  ASSERT_EQ(RunSepia(run_.Train("parts", args_)).code, 0);
  ExpectEqualToCalm("parts");
}

// Saves after every step, in the background: kills hit them at every stage.
TEST_P(ResumeTest, AfterKillsAtRandomMoments) {
  args_.insert(args_.end(),
               {"--set", "checkpoint.every_steps=1", "--set", "checkpoint.keep_last=2"});
  const Timer timer;
  RunCalm();
  const double calm_ms = timer.Seconds() * 1000;
  const PhiloxStream random(11, GetParam());
  {
    // It cannot end by itself: this kill hits a run that is under way, however slow the machine is.
    SepiaProcess process(run_.Train("killed", args_), {.fault = "hang step=12"});
    ASSERT_TRUE(WaitForLines(run_.Metrics("killed"), 6));
    process.Signal(SIGKILL);
    ASSERT_EQ(process.Wait().code, 128 + SIGKILL);
  }
  for (uint64_t round = 0; round < 11; ++round) {
    SepiaProcess process(run_.Train("killed", args_));
    // Within half an undisturbed run.
    SleepMilliseconds(static_cast<int>(random.Uniform(round) * calm_ms / 2));
    process.Signal(SIGKILL);
    const ProcessResult result = process.Wait();
    ASSERT_TRUE(result.code == 0 || result.code == 128 + SIGKILL) << result.output;
  }
  const ProcessResult last = RunSepia(run_.Train("killed", args_));
  ASSERT_EQ(last.code, 0) << last.output;
  ExpectEqualToCalm("killed");
}

INSTANTIATE_TEST_SUITE_P(Precisions, ResumeTest, ::testing::Values("FP32", "BF16", "FP16"),
                         [](const auto& test) { return std::string(test.param); });

// The same bits for any number of threads, and for any two runs.
class ThreadsTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ThreadsTest, WholeRunsAreIdentical) {
  const TinyRun run;
  const std::vector<std::string> names = {"1", "2", "3", "5", "8", "again"};
  for (const std::string& name : names) {
    std::vector<std::string> args = PrecisionArgs(GetParam());
    args.insert(args.end(), {"--set", "threads=" + (name == "again" ? "2" : name)});
    const ProcessResult result = RunSepia(run.Train(name, args));
    ASSERT_EQ(result.code, 0) << result.output;
    EXPECT_EQ(ComparableMetrics(run.Metrics(name)), ComparableMetrics(run.Metrics("1"))) << name;
    EXPECT_EQ(CompareCheckpoints(run.Checkpoint(name, kSteps), run.Checkpoint("1", kSteps)),
              std::vector<std::string>())
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, ThreadsTest, ::testing::Values("FP32", "BF16"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace sepia::testing
