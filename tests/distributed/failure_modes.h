// What the fault tests promise, for docs/failure-modes.md.
#pragma once

#include <string>
#include <vector>

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

// "sepia train" of the tiny run; `limit` of the watchdog in seconds.
std::vector<std::string> FaultyTrain(const TinyRun& run, const std::string& name,
                                     const Layout& layout, double limit = 3,
                                     const std::vector<std::string>& more = {});

struct TimedResult {
  int code = 0;
  std::string output;
  double seconds = 0;
};

// Runs under mpirun with a fault.
TimedResult RunWithFault(const std::vector<std::string>& args, int ranks, const std::string& fault);

// The same run without faults gives this: same metrics (but for times), same last checkpoint.
void ExpectSameRun(const TinyRun& run, const std::string& name, const std::string& calm,
                   int64_t last_step);

}  // namespace sepia::testing
