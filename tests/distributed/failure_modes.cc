#include "tests/distributed/failure_modes.h"

#include <cstdlib>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/file.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {

void Promise(const FailureMode& mode) {
  if (::testing::Test::HasFailure()) return;
  const std::string row = fmt::format("| {} | {} | {} |", mode.promise, mode.fault, mode.outcome);
  if (const char* path = std::getenv("SEPIA_FAILURE_MODES"); path != nullptr) {
    std::ofstream(path, std::ios::app) << row << "\n";
    return;
  }
  EXPECT_THAT(ReadFile(SourcePath("docs/failure-modes.md")), ::testing::HasSubstr(row + "\n"))
      << "run scripts/failure-modes";
}

std::string Layout::name() const { return fmt::format("{}x{}z{}", ranks, tensor, zero); }

std::vector<std::string> LayoutArgs(const Layout& layout) {
  // What the number of data ranks divides.
  const int global = layout.ranks / layout.tensor == 3 ? 6 : 4;
  return {"--set", "batch.micro=1",
          "--set", fmt::format("batch.global={}", global),
          "--set", fmt::format("parallel.tensor={}", layout.tensor),
          "--set", fmt::format("parallel.zero_stage={}", layout.zero),
          "--set", "threads=1"};
}

std::vector<std::string> FaultyTrain(const TinyRun& run, const std::string& name,
                                     const Layout& layout, double limit,
                                     const std::vector<std::string>& more) {
  std::vector<std::string> args = LayoutArgs(layout);
  args.insert(args.end(), {"--set", fmt::format("safety.hang_seconds={}", limit)});
  args.insert(args.end(), more.begin(), more.end());
  return run.Train(name, args);
}

TimedResult RunWithFault(const std::vector<std::string>& args, int ranks,
                         const std::string& fault) {
  const Timer timer;
  ProcessResult result = RunSepia(args, {.ranks = ranks, .fault = fault});
  return {result.code, std::move(result.output), timer.Seconds()};
}

void ExpectSameRun(const TinyRun& run, const std::string& name, const std::string& calm,
                   int64_t last_step) {
  EXPECT_EQ(ComparableMetrics(run.Metrics(name)), ComparableMetrics(run.Metrics(calm)));
  EXPECT_EQ(CompareCheckpoints(run.Checkpoint(name, last_step), run.Checkpoint(calm, last_step)),
            std::vector<std::string>());
}

}  // namespace sepia::testing
