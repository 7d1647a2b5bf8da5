// What a run pays for being watched: the notes of a step, counted in real runs, times the time of a
// note, against the step. At most 0.5 % of it.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "dist/flight_recorder.h"
#include "dist/thread_ranks.h"
#include "kernels/gemm_peak.h"
#include "tests/e2e/tiny_run.h"
#include "trainer/flops.h"
#include "trainer/trainer.h"

namespace sepia::trainer {
namespace {

using sepia::testing::ReadMetrics;
using sepia::testing::TinyRun;

constexpr double kMostShare = 0.005;

// Mean over the four notes that a collective and a change of phase take; the best of several tries.
double SecondsPerNote() {
  constexpr int kRounds = 2000;
  double best = 1;
  for (int trial = 0; trial < 5; ++trial) {
    dist::FlightRecorder recorder;
    const Timer timer;
    for (int i = 0; i < kRounds; ++i) {
      const int64_t call = recorder.Asked("data[0]", i + 1, "AllReduce", "gradients", 1 << 20);
      recorder.Started(call);
      recorder.Done(call);
      recorder.SetPhase(i, "forward");
    }
    best = std::min(best, timer.Seconds() / (4 * kRounds));
  }
  return best;
}

struct Watched {
  double notes = 0;         // of rank 0 in a step
  double step_seconds = 0;  // median
};

// `layers` layers of the tiny model on two ranks, which are threads here: two tensor ranks, or two
// data ranks with ZeRO-1.
Watched Train(int layers, int accumulation, int tensor) {
  const int data = 2 / tensor;
  const TinyRun run;
  const StopSignals signals;
  const auto notes_of = [&](const std::string& name, int steps) {
    uint64_t notes = 0;
    dist::RunThreadRanks(2, [&](std::unique_ptr<dist::Communicator> world) {
      const auto recorder = world->recorder();
      const bool first = world->rank() == 0;
      LoadedConfig config =
          LoadConfig(run.File("run.textproto"),
                     {"run_dir=" + run.RunDir(name), fmt::format("parallel.tensor={}", tensor),
                      fmt::format("parallel.zero_stage={}", data - 1),
                      fmt::format("model.num_layers={}", layers), "batch.micro=1",
                      fmt::format("batch.global={}", accumulation * data),
                      fmt::format("schedule.total_steps={}", steps), "eval.every_steps=0",
                      "checkpoint.every_steps=0", "threads=1"},
                     {.ranks = 2});
      dist::Watchdog watchdog(*world);
      dist::Mesh mesh(std::move(world), tensor);
      Trainer trainer(std::move(config), {}, signals, mesh, watchdog);
      EXPECT_EQ(trainer.Run(), ExitCode::kDone);
      if (first) notes = recorder->progress();
    });
    return static_cast<double>(notes);
  };
  constexpr int kFew = 5, kMany = 25;
  const double few = notes_of("few", kFew);
  Watched watched{.notes = (notes_of("many", kMany) - few) / (kMany - kFew)};
  std::vector<double> seconds;
  for (const auto& step : ReadMetrics(run.Metrics("many"))) {
    seconds.push_back(step["step_ms"].get<double>() / 1000);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kMany / 2, seconds.end());
  watched.step_seconds = seconds[kMany / 2];
  return watched;
}

// Of one tensor rank that reaches the machine's peak with one thread: no step is shorter.
double LeastStepSeconds(const std::vector<std::string>& overrides, int accumulation, int tensor) {
  const TrainSettings s = LoadConfigText("", "model", overrides, {.for_training = false}).settings;
  const int64_t length = s.data.sequence_length;
  AttentionWork attention = ExpectedAttentionWork(s.model, length, /*density=*/0.16);
  attention.visited_pairs *= accumulation;
  return TrainingFlops(s.model, accumulation * length, attention) /
         (1e9 * tensor * kernels::MeasureGemmPeakGflops(DType::kFloat32, 1));
}

TEST(WatchCost, IsBelowHalfAPercentOfAStep) {
  const double note = SecondsPerNote();
  std::printf("a note takes %.0f ns\n", 1e9 * note);
  for (const int tensor : {1, 2}) {
    SCOPED_TRACE(tensor);
    const Watched tiny = Train(/*layers=*/2, /*accumulation=*/2, tensor);
    const double share = tiny.notes * note / tiny.step_seconds;
    std::printf("tensor %d: %.0f notes in a step of %.2f ms of the tiny model: %.3f %%\n", tensor,
                tiny.notes, 1e3 * tiny.step_seconds, 100 * share);
    EXPECT_GT(tiny.notes, 20);
    EXPECT_LT(share, kMostShare);

    // As many notes as the real model: they do not depend on its width.
    const Watched deep = Train(/*layers=*/6, /*accumulation=*/4, tensor);
    const double least =
        LeastStepSeconds({"model.preset='pythia-70m'", "model.attention={kind: SEP window: 64}",
                          "data.sequence_length=2048"},
                         /*accumulation=*/4, tensor);
    const double deep_share = deep.notes * note / least;
    std::printf("tensor %d: %.0f notes in a step of at least %.2f s of pythia-70m: %.5f %%\n",
                tensor, deep.notes, least, 100 * deep_share);
    EXPECT_LT(deep_share, kMostShare);
  }
}

}  // namespace
}  // namespace sepia::trainer
