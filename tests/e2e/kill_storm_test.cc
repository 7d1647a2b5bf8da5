// kill -9 at random moments, of one rank or of all, while every step is saved and an old checkpoint
// removed: whatever the moment, the newest checkpoint is whole and one that the undisturbed run has
// too, bit for bit, and nothing that was there before is lost. SEPIA_KILL_ROUNDS: how often.
#include <signal.h>
#include <sys/types.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/philox.h"
#include "checkpoint/reader.h"
#include "checkpoint/step_directories.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"

namespace sepia::testing {
namespace {

constexpr int64_t kSteps = 24;

struct StormLayout {
  int ranks, tensor, zero;
  std::string name() const { return fmt::format("{}x{}z{}", ranks, tensor, zero); }
};

std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/task/{}/children", pid, pid));
  std::vector<pid_t> children;
  for (pid_t child; in >> child;) children.push_back(child);
  return children;
}

// One layout's run, started and killed again and again.
class StormyRun {
 public:
  StormyRun(const TinyRun& run, const StormLayout& layout) : run_(run), layout_(layout) {
    const Timer timer;
    const ProcessResult result =
        RunSepia(run_.Train(Calm(), Args(/*keep_last=*/0)), {.ranks = layout_.ranks});
    EXPECT_EQ(result.code, 0) << result.output;
    calm_ms_ = timer.Seconds() * 1000;
  }

  // A start and a kill. `moment` in [0, 1) of an undisturbed run; `one` of the ranks, or all.
  void Round(double moment, bool one, uint32_t victim) {
    SepiaProcess process(run_.Train(Name(), Args(/*keep_last=*/2)), {.ranks = layout_.ranks});
    SleepMilliseconds(static_cast<int>(moment * calm_ms_));
    const std::vector<pid_t> ranks =
        layout_.ranks > 0 ? ChildrenOf(process.pid()) : std::vector<pid_t>();
    if (one && !ranks.empty()) {
      kill(ranks[victim % ranks.size()], SIGKILL);  // mpirun ends the others
    } else {
      for (const pid_t rank : ranks) kill(rank, SIGKILL);
      process.Signal(SIGKILL);
    }
    const ProcessResult result = process.Wait();
    Check();
    if (result.code == 0 || ++rounds_ % 5 == 0) StartAfresh();  // the first save has its turn again
  }

  // Undisturbed at last.
  void Finish() {
    const ProcessResult result =
        RunSepia(run_.Train(Name(), Args(/*keep_last=*/2)), {.ranks = layout_.ranks});
    EXPECT_EQ(result.code, 0) << result.output;
    Check();
    EXPECT_EQ(newest_, kSteps);
    EXPECT_EQ(ComparableMetrics(run_.Metrics(Name())), ComparableMetrics(run_.Metrics(Calm())));
  }

 private:
  std::string Calm() const { return "calm-" + layout_.name(); }
  std::string Name() const { return fmt::format("storm-{}-{}", layout_.name(), generation_); }

  std::vector<std::string> Args(int keep_last) const {
    return {"--set", fmt::format("parallel.tensor={}", layout_.tensor),
            "--set", fmt::format("parallel.zero_stage={}", layout_.zero),
            "--set", "checkpoint.every_steps=1",
            "--set", fmt::format("checkpoint.keep_last={}", keep_last),
            "--set", "eval.every_steps=0",
            "--set", "threads=1"};
  }

  void Check() {
    SCOPED_TRACE(Name());
    try {
      const auto newest = checkpoint::NewestCheckpoint(run_.RunDir(Name()) + "/checkpoints");
      if (!newest) {
        EXPECT_EQ(newest_, -1) << "lost";
        return;
      }
      const checkpoint::CheckpointReader reader(*newest);
      EXPECT_GE(reader.step(), newest_);
      newest_ = reader.step();
      EXPECT_EQ(reader.VerifyDeep(), std::vector<std::string>());
      EXPECT_EQ(CompareCheckpoints(*newest, run_.Checkpoint(Calm(), newest_)),
                std::vector<std::string>());
    } catch (const UserError& error) {
      ADD_FAILURE() << error.what();
    }
  }

  void StartAfresh() {
    std::filesystem::remove_all(run_.RunDir(Name()));
    ++generation_;
    newest_ = -1;
  }

  const TinyRun& run_;
  const StormLayout layout_;
  double calm_ms_ = 0;
  int generation_ = 0;
  int rounds_ = 0;
  int64_t newest_ = -1;
};

TEST(KillStorm, TheNewestCheckpointIsWholeAndNothingIsLost) {
  const char* given = std::getenv("SEPIA_KILL_ROUNDS");
  const int rounds = given == nullptr ? 20 : std::atoi(given);
  const TinyRun run;
  std::vector<StormyRun> runs;
  runs.emplace_back(run, StormLayout{0, 1, 0});
  if (std::string(SEPIA_MPIRUN) != "") {
    runs.emplace_back(run, StormLayout{2, 2, 0});
    runs.emplace_back(run, StormLayout{2, 1, 1});
  }
  const PhiloxStream random(static_cast<uint64_t>(rounds), "kill storm");
  for (int round = 0; round < rounds && !::testing::Test::HasFailure(); ++round) {
    const auto at = static_cast<uint64_t>(4 * round);
    runs[static_cast<size_t>(round) % runs.size()].Round(
        0.9 * random.Uniform(at), random.Uniform(at + 1) < 0.5F, random.Bits(at + 2));
  }
  for (StormyRun& stormy : runs) stormy.Finish();
  std::printf("%d rounds\n", rounds);
}

}  // namespace
}  // namespace sepia::testing
