#include "tests/distributed/failure_modes.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

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

namespace {

// From /proc/PID/stat, "pid (name) state parent ...": 'T' is stopped.
struct ProcessState {
  char state = '?';
  int parent = 0;
};
ProcessState StateOf(const std::string& process) {
  std::ifstream file("/proc/" + process + "/stat");
  std::string stat;
  std::getline(file, stat);
  ProcessState state;
  const size_t name_end = stat.rfind(") ");
  if (name_end != std::string::npos) {
    std::sscanf(stat.c_str() + name_end, ") %c %d", &state.state, &state.parent);
  }
  return state;
}

}  // namespace

std::vector<pid_t> RankProcesses(const SepiaProcess& process) {
  std::vector<std::pair<int, pid_t>> ranks;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string number = entry.path().filename();
    if (number.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path() / "exe", gone) != SEPIA_BINARY) continue;
    std::ifstream environment(entry.path() / "environ");
    int rank = -1;
    for (std::string word; std::getline(environment, word, '\0');) {
      if (word.starts_with("OMPI_COMM_WORLD_RANK="))
        rank = std::stoi(word.substr(word.find('=') + 1));
    }
    if (StateOf(number).parent == process.pid()) ranks.emplace_back(rank, std::stoi(number));
  }
  std::sort(ranks.begin(), ranks.end());
  std::vector<pid_t> processes;
  for (const auto& [rank, pid] : ranks) processes.push_back(pid);
  return processes;
}

std::vector<pid_t> WaitForStoppedRanks(const SepiaProcess& process, size_t count) {
  std::vector<pid_t> stopped;
  const auto all_have = [&] {
    SleepMilliseconds(10);
    stopped.clear();
    for (const pid_t rank : RankProcesses(process)) {
      if (StateOf(std::to_string(rank)).state == 'T') stopped.push_back(rank);
    }
    return stopped.size() == count;
  };
  EXPECT_TRUE(WaitUntil(all_have)) << process.Output();
  return stopped;
}

void ExpectSameRun(const TinyRun& run, const std::string& name, const std::string& calm,
                   int64_t last_step) {
  EXPECT_EQ(ComparableMetrics(run.Metrics(name)), ComparableMetrics(run.Metrics(calm)));
  EXPECT_EQ(CompareCheckpoints(run.Checkpoint(name, last_step), run.Checkpoint(calm, last_step)),
            std::vector<std::string>());
}

ProcessResult FaultTest::RunCalmly(const std::string& name) const {
  ProcessResult result = RunSepiaWhenFree(Train(name, kPatient), {.ranks = layout_.ranks});
  EXPECT_EQ(result.code, 0) << result.output;
  return result;
}

void FaultTest::ExpectTheBitsOfACalmRun() const {
  RunCalmly("calm");
  ExpectSameRun(run_, "a", "calm", kSteps);
}

void FaultTest::ExpectTheSameAfterAnotherStart() const {
  EXPECT_THAT(RunCalmly("a").output, ::testing::HasSubstr("resuming"));
  ExpectTheBitsOfACalmRun();
}

}  // namespace sepia::testing
