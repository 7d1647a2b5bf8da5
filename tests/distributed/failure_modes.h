// What the fault tests share: runs with a fault, compared with a calm one, and what they promise
// for docs/failure-modes.md.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"

namespace sepia::testing {

struct FailureMode {
  std::string promise;  // "P2"
  std::string fault;    // what was done
  std::string outcome;  // what the test saw, as a sentence
};

// Fails the test unless docs/failure-modes.md has the row; with SEPIA_FAILURE_MODES=FILE appends
// it there (scripts/failure-modes writes the page so).
void Promise(const FailureMode& mode);

// A way to lay a run out over ranks.
struct Layout {
  int ranks, tensor, zero;
  std::string name() const;
};

// Options of the layout, one thread a rank.
std::vector<std::string> LayoutArgs(const Layout& layout);

// Limit of the watchdog, in seconds, where no hang is meant to be found.
constexpr double kPatient = 100;

// "sepia train" of the tiny run; `limit` of the watchdog in seconds.
std::vector<std::string> FaultyTrain(const TinyRun& run, const std::string& name,
                                     const Layout& layout, double limit = kPatient,
                                     const std::vector<std::string>& more = {});

struct TimedResult {
  int code = 0;
  std::string output;
  double seconds = 0;
};

// Runs under mpirun with a fault.
TimedResult RunWithFault(const std::vector<std::string>& args, int ranks, const std::string& fault);

// Processes of sepia that `process`, an mpirun, has started on this machine, by rank.
std::vector<pid_t> RankProcesses(const SepiaProcess& process);

// Waits until `count` ranks of `process`, an mpirun, have stopped themselves (fault "stop"), which
// tells where in the run the ranks are. Returns their processes; fails the test when they do not.
std::vector<pid_t> WaitForStoppedRanks(const SepiaProcess& process, size_t count);

// The same run without faults gives this: same metrics (but for times), same last checkpoint.
void ExpectSameRun(const TinyRun& run, const std::string& name, const std::string& calm,
                   int64_t last_step);

// A run "a" of one layout that meets a fault, and a run "calm" that does not.
class FaultTest : public ::testing::Test {
 protected:
  static constexpr int64_t kSteps = 24;

  std::vector<std::string> Train(const std::string& name, double limit) const {
    return FaultyTrain(run_, name, layout_, limit, options_);
  }
  TimedResult Fail(const std::string& fault) const {
    return RunWithFault(Train("a", limit_), layout_.ranks, fault);
  }
  SepiaProcess Start(const std::string& fault) const {
    return SepiaProcess(Train("a", limit_), {.ranks = layout_.ranks, .fault = fault});
  }
  // To its end, without faults; also behind a job whose last ranks are still on their way out.
  ProcessResult RunCalmly(const std::string& name) const;
  // "a", which has come to its end.
  void ExpectTheBitsOfACalmRun() const;
  // "a", which has not.
  void ExpectTheSameAfterAnotherStart() const;

  const TinyRun run_;
  Layout layout_{2, 1, 0};
  std::vector<std::string> options_;
  double limit_ = kPatient;  // of the run that meets the fault
};

}  // namespace sepia::testing
