// Requests to stop, from before the ranks have met to the middle of a save (P4), and whole jobs
// that are suspended and go on.
#include <signal.h>

#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/distributed/failure_modes.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;

// What stops a run, and when: the first signal saves, whatever the ranks are doing.
struct StopCase {
  const char* name;
  int signal;
  const char* fault;  // keeps the ranks in a phase, so that the signal finds them there
  int lines;          // of metrics before the signal; 0: the run has just begun to write them
};

std::string Name(int signal) { return signal == SIGUSR1 ? "SIGUSR1" : "SIGTERM"; }

class StopTest : public FaultTest, public ::testing::WithParamInterface<StopCase> {
 protected:
  StopTest() { layout_ = {2, 1, 1}; }

  ProcessOptions Options(const std::string& fault) const {
    // mpirun ends ranks this long after it has passed SIGTERM on. Seconds.
    std::vector<std::string> launcher = LaunchWords(layout_.ranks);
    launcher.insert(launcher.end(), {"--mca", "odls_base_sigkill_timeout", "3"});
    return {.launcher = launcher, .fault = fault};
  }

  // mpirun turns SIGTERM and SIGINT into its own code.
  static void ExpectStopped(const ProcessResult& result, int signal) {
    EXPECT_EQ(result.code, signal == SIGUSR1 ? 75 : 1) << result.output;
  }
  static std::string CodeAfter(int signal) {
    return signal == SIGUSR1 ? "75" : "1 from mpirun, 75 from the ranks";
  }
};

TEST_P(StopTest, FinishesTheStepSavesAndContinuesBitForBit) {
  const StopCase& c = GetParam();
  SepiaProcess process(Train("a", kPatient), Options(c.fault));
  if (c.lines > 0) {
    ASSERT_TRUE(WaitForLines(run_.Metrics("a"), c.lines));
  } else {
    ASSERT_TRUE(WaitForFile(run_.Metrics("a")));
    SleepMilliseconds(300);  // until the step has begun
  }
  process.Signal(c.signal);
  const ProcessResult result = process.Wait();
  ExpectStopped(result, c.signal);
  const auto steps = static_cast<int64_t>(ReadMetrics(run_.Metrics("a")).size());
  EXPECT_GT(steps, 0);
  EXPECT_LT(steps, kSteps);
  EXPECT_TRUE(FileExists(run_.Checkpoint("a", steps) + "/COMMIT")) << result.output;
  ExpectTheSameAfterAnotherStart();
  Promise({"P4", fmt::format("{} to mpirun {}", Name(c.signal), c.name),
           fmt::format("{}; the step is finished and saved; the next start continues bit for bit",
                       CodeAfter(c.signal))});
}

INSTANTIATE_TEST_SUITE_P(
    Signals, StopTest,
    ::testing::Values(StopCase{"in the first step", SIGUSR1, "slow ms=1500 step=1", 0},
                      StopCase{"during a validation", SIGUSR1, "slow ms=300 phase=validate", 5},
                      StopCase{"during a save", SIGUSR1, "slow ms=300 phase=save", 10},
                      StopCase{"in the middle of a step", SIGTERM, "slow ms=100 phase=backward",
                               2}),
    [](const auto& test) { return fmt::format("Case{}", test.index); });

class EarlyStopTest : public FaultTest, public ::testing::WithParamInterface<int> {};

// Between the locked directory and the first step, while data and weights are read. mpirun hands
// SIGUSR1 on at once but SIGTERM some seconds later: this one goes to the ranks.
TEST_P(EarlyStopTest, WhileTheRunStartsNothingIsTrainedAndNothingSaved) {
  const int signal = GetParam();
  SepiaProcess process = Start("slow ms=1500 phase=start");
  ASSERT_TRUE(WaitForFile(run_.File("a/lock")));
  if (signal == SIGUSR1) {
    process.Signal(signal);
  } else {
    for (const pid_t rank : RankProcesses(process)) kill(rank, signal);
  }
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_THAT(result.output, HasSubstr("nothing was trained"));
  EXPECT_FALSE(FileExists(run_.Checkpoint("a", 0)));
  RunCalmly("a");
  ExpectTheBitsOfACalmRun();
  Promise({"P4",
           fmt::format("{} while the run starts up",
                       signal == SIGUSR1 ? "SIGUSR1 to mpirun" : "SIGTERM to the ranks"),
           "75; nothing was trained, nothing is saved, and the run says so"});
}

INSTANTIATE_TEST_SUITE_P(Signals, EarlyStopTest, ::testing::Values(SIGUSR1, SIGTERM),
                         [](const auto& test) { return Name(test.param); });

bool Handles(pid_t process, int signal) {
  std::ifstream file(fmt::format("/proc/{}/status", process));
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("SigCgt:")) continue;
    return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

class StopOnceTest : public FaultTest {};

// One rank is still on its way: the other waits for it in MPI_Init.
TEST_F(StopOnceTest, ASignalBeforeTheRanksHaveMetStopsTheRun) {
  const std::vector<std::string> args = Train("a", kPatient);
  std::vector<std::string> words = args;
  const std::string late =
      fmt::format("trap '' USR1; : >{}; while [ ! -e {} ]; do sleep 0.02; done; exec \"$@\"",
                  run_.File("deaf"), run_.File("go"));
  words.insert(words.end(), {":", "-n", "1", "/bin/sh", "-c", late, "sh", SEPIA_BINARY});
  words.insert(words.end(), args.begin(), args.end());
  SepiaProcess process(words, {.ranks = 1});
  const auto first_listens = [&] {
    const std::vector<pid_t> ranks = RankProcesses(process);
    return !ranks.empty() && Handles(ranks.front(), SIGUSR1);
  };
  ASSERT_TRUE(WaitUntil(first_listens, /*seconds=*/20));
  ASSERT_TRUE(WaitForFile(run_.File("deaf")));
  process.Signal(SIGUSR1);
  EXPECT_TRUE(WaitUntil(
      [&] { return process.Output().find("finishing what is under way") != std::string::npos; },
      /*seconds=*/20));
  std::ofstream(run_.File("go")) << "\n";
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_THAT(result.output, HasSubstr("nothing was trained"));
  EXPECT_FALSE(FileExists(run_.RunDir("a")));
  Promise({"P4", "SIGUSR1 to mpirun before all ranks have come",
           "75 when they have; nothing was trained, no run directory"});
}

TEST_F(StopOnceTest, TheSecondSignalEndsTheJobAtOnceAndHarmsNothing) {
  // A step that takes a minute: only the second signal can end it in time. Saves are done when
  // their step is.
  options_ = {"--set", "checkpoint.async=false"};
  SepiaProcess process = Start("slow ms=60000 step=9 phase=forward");
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 8));
  process.Signal(SIGUSR1);
  SleepMilliseconds(300);
  process.Signal(SIGUSR1);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_THAT(result.output, HasSubstr("stopping now, without saving"));
  EXPECT_TRUE(FileExists(run_.Checkpoint("a", 5) + "/COMMIT"));
  ExpectTheSameAfterAnotherStart();
  Promise(
      {"P4", "SIGUSR1 to mpirun twice",
       "75 at once, without saving; complete checkpoints are untouched; the next start continues "
       "bit for bit"});
}

// Stopped processes that go on: one rank within the watchdog's limit, or the whole job for longer
// than that, as a batch system suspends it.
class SuspendedTest : public FaultTest {
 protected:
  // Stops `processes` in the middle of the run, and lets them go on.
  void Suspend(const std::vector<pid_t>& processes, double seconds) {
    for (const pid_t process : processes) ASSERT_EQ(kill(process, SIGSTOP), 0);
    SleepMilliseconds(static_cast<int>(1000 * seconds));
    EXPECT_LT(ReadMetrics(run_.Metrics("a")).size(), static_cast<size_t>(kSteps));
    for (const pid_t process : processes) ASSERT_EQ(kill(process, SIGCONT), 0);
  }
};

TEST_F(SuspendedTest, ARankStoppedForLessThanTheLimitGoesOn) {
  layout_ = {3, 1, 1};
  SepiaProcess process = Start("slow ms=50");
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 4));
  const std::vector<pid_t> ranks = RankProcesses(process);
  ASSERT_EQ(ranks.size(), 3u);
  Suspend({ranks[1]}, /*seconds=*/1.5);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 0) << result.output;
  ExpectTheBitsOfACalmRun();
  Promise({"P2", "a rank is stopped (SIGSTOP) for less than `safety.hang_seconds` and goes on",
           "nothing: no alarm, the same bits"});
}

TEST_F(SuspendedTest, AWholeJobStoppedForLongerThanTheLimitGoesOn) {
  // A step without progress for 8 s, of which the watchdogs see 2 s.
  limit_ = 4;
  SepiaProcess process = Start("slow ms=8000 step=8");
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 7));
  SleepMilliseconds(800);  // a watchdog looks every half second until it has its limit
  std::vector<pid_t> all = RankProcesses(process);
  ASSERT_EQ(all.size(), 2u);
  all.push_back(process.pid());
  Suspend(all, /*seconds=*/6);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 0) << result.output;
  ExpectTheBitsOfACalmRun();
  Promise({"P2", "a batch system suspends the whole job (SIGSTOP, later SIGCONT, to all of it)",
           "nothing, however long: no alarm, the same bits"});
}

}  // namespace
}  // namespace sepia::testing
