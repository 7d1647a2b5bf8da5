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

// Waits until so many ranks have said that they have heard the first signal.
bool WaitUntilHeard(const SepiaProcess& process, size_t ranks) {
  return WaitUntil([&] { return Count(process.Output(), "finishing what is under way") >= ranks; });
}

std::string Name(int signal) { return signal == SIGUSR1 ? "SIGUSR1" : "SIGTERM"; }

// The first signal saves, whatever the ranks are doing.
class StopTest : public FaultTest {
 protected:
  StopTest() { layout_ = {2, 1, 1}; }

  int64_t Steps() const { return static_cast<int64_t>(ReadMetrics(run_.Metrics("a")).size()); }

  // `code` is that of a job to which `what` came.
  void ExpectSaved(const std::string& code, const std::string& what) {
    EXPECT_TRUE(FileExists(run_.Checkpoint("a", Steps()) + "/COMMIT"));
    ExpectTheSameAfterAnotherStart();
    Promise({"P4", what,
             code + "; the step is finished and saved; the next start continues bit for bit"});
  }
};

// One rank stands still inside step `step`, so the other cannot leave it.
struct PhaseCase {
  const char* name;
  const char* fault;
  int64_t step;
};

class StopInPhaseTest : public StopTest, public ::testing::WithParamInterface<PhaseCase> {};

TEST_P(StopInPhaseTest, FinishesTheStepSavesAndContinuesBitForBit) {
  const PhaseCase& c = GetParam();
  SepiaProcess process = Start(c.fault);
  const std::vector<pid_t> stopped = WaitForStoppedRanks(process, 1);
  ASSERT_EQ(stopped.size(), 1u);
  process.Signal(SIGUSR1);
  // The other one: the signal waits for this one to go on.
  EXPECT_TRUE(WaitUntilHeard(process, 1));
  ASSERT_EQ(kill(stopped.front(), SIGCONT), 0);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_EQ(Steps(), c.step) << result.output;
  ExpectSaved("75", fmt::format("SIGUSR1 to mpirun {}", c.name));
}

// In a save the other rank is the one that waits for the directory's name.
INSTANTIATE_TEST_SUITE_P(
    Signals, StopInPhaseTest,
    ::testing::Values(PhaseCase{"in the first step", "stop rank=1 step=1", 1},
                      PhaseCase{"during a validation", "stop rank=1 step=6 phase=validate", 6},
                      PhaseCase{"during a save", "stop rank=0 step=10 phase=save", 10}),
    [](const auto& test) { return fmt::format("Case{}", test.index); });

// mpirun hands SIGTERM on a second later, and ends with its own code.
TEST_F(StopTest, SigtermInAStepFinishesItSavesAndContinuesBitForBit) {
  std::vector<std::string> launcher = LaunchWords(layout_.ranks);
  // mpirun kills ranks this long after it has passed SIGTERM on. Seconds.
  launcher.insert(launcher.end(), {"--mca", "odls_base_sigkill_timeout", "5"});
  SepiaProcess process(Train("a", kPatient),
                       {.launcher = launcher, .fault = "slow ms=200 phase=backward"});
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 2));
  process.Signal(SIGTERM);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_GE(Steps(), 2);
  EXPECT_LT(Steps(), kSteps);
  ExpectSaved("1 from mpirun, 75 from the ranks", "SIGTERM to mpirun in the middle of a step");
}

class EarlyStopTest : public FaultTest, public ::testing::WithParamInterface<int> {};

// Between the locked directory and the first step. mpirun hands SIGUSR1 on at once but SIGTERM some
// seconds later: this one goes to the ranks.
TEST_P(EarlyStopTest, WhileTheRunStartsNothingIsTrainedAndNothingSaved) {
  const int signal = GetParam();
  SepiaProcess process = Start("stop rank=1 phase=start");
  const std::vector<pid_t> stopped = WaitForStoppedRanks(process, 1);
  ASSERT_EQ(stopped.size(), 1u);
  EXPECT_TRUE(FileExists(run_.File("a/lock")));
  if (signal == SIGUSR1) {
    process.Signal(signal);
  } else {
    for (const pid_t rank : RankProcesses(process)) kill(rank, signal);
  }
  EXPECT_TRUE(WaitUntilHeard(process, 1));
  ASSERT_EQ(kill(stopped.front(), SIGCONT), 0);
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
  EXPECT_TRUE(WaitUntilHeard(process, 1));
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
  SepiaProcess process = Start("stop rank=1 step=9; slow ms=60000 step=9 phase=forward");
  const std::vector<pid_t> stopped = WaitForStoppedRanks(process, 1);  // inside step 9, as all are
  ASSERT_EQ(stopped.size(), 1u);
  ASSERT_EQ(kill(stopped.front(), SIGCONT), 0);
  process.Signal(SIGUSR1);
  EXPECT_TRUE(WaitUntilHeard(process, 2));  // else a rank may take the two for one
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

// Processes that stop in step 8 and go on: one rank within the watchdog's limit, or the whole job
// for longer than that, as a batch system suspends it.
class SuspendedTest : public FaultTest {
 protected:
  void GoOnAfter(int milliseconds, const std::vector<pid_t>& processes) {
    SleepMilliseconds(milliseconds);
    EXPECT_EQ(ReadMetrics(run_.Metrics("a")).size(), 7u);
    for (const pid_t process : processes) ASSERT_EQ(kill(process, SIGCONT), 0);
  }
};

TEST_F(SuspendedTest, ARankStoppedForLessThanTheLimitGoesOn) {
  layout_ = {3, 1, 1};
  SepiaProcess process = Start("stop rank=1 step=8");
  const std::vector<pid_t> stopped = WaitForStoppedRanks(process, 1);
  ASSERT_EQ(stopped.size(), 1u);
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 7));  // rank 0 may be behind
  GoOnAfter(1500, stopped);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 0) << result.output;
  ExpectTheBitsOfACalmRun();
  Promise({"P2", "a rank is stopped (SIGSTOP) for less than `safety.hang_seconds` and goes on",
           "nothing: no alarm, the same bits"});
}

TEST_F(SuspendedTest, AWholeJobStoppedForLongerThanTheLimitGoesOn) {
  // Once the ranks go on from where they have stopped themselves, no progress for 8 s. The
  // watchdogs see 2 s of them: some looks before the job is suspended, and some behind it.
  limit_ = 4;
  SepiaProcess process = Start("stop step=8; slow ms=8000 step=8");
  std::vector<pid_t> all = WaitForStoppedRanks(process, 2);
  ASSERT_EQ(all.size(), 2u);
  all.push_back(process.pid());
  for (const pid_t one : all) ASSERT_EQ(kill(one, SIGCONT), 0);
  SleepMilliseconds(800);
  for (const pid_t one : all) ASSERT_EQ(kill(one, SIGSTOP), 0);
  GoOnAfter(6000, all);
  const ProcessResult result = process.Wait();
  EXPECT_EQ(result.code, 0) << result.output;
  ExpectTheBitsOfACalmRun();
  Promise({"P2", "a batch system suspends the whole job (SIGSTOP, later SIGCONT, to all of it)",
           "nothing, however long: no alarm, the same bits"});
}

}  // namespace
}  // namespace sepia::testing
