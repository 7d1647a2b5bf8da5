// One training run: from a config to a trained model in a run directory.
//
//   Trainer trainer(std::move(config), options, signals, mesh, watchdog);
//   return trainer.Run();
//
// Start reading at Run() and Step() in trainer.cc: the loop and one optimizer step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/batch.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "checkpoint/train_state.h"
#include "data/batch_loader.h"
#include "data/dataset.h"
#include "dist/mesh.h"
#include "dist/watchdog.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"
#include "trainer/checkpointing.h"
#include "trainer/config.h"
#include "trainer/faults.h"
#include "trainer/loss_scaler.h"
#include "trainer/metrics.h"
#include "trainer/micro_steps.h"
#include "trainer/optimizer.h"
#include "trainer/rank_times.h"
#include "trainer/recorder.h"
#include "trainer/run_directory.h"
#include "trainer/samples.h"
#include "trainer/schedule.h"
#include "trainer/signals.h"
#include "trainer/zscore.h"

namespace sepia::trainer {

// Seconds of this rank's collectives, and those of them that the rank spent waiting.
struct CommunicationTime {
  double busy = 0, waited = 0;

  CommunicationTime operator-(const CommunicationTime& before) const {
    return {busy - before.busy, waited - before.waited};
  }
  // 0 ... 1; NaN when there was no communication.
  double hidden_share() const { return busy > 0 ? std::max(0.0, 1 - waited / busy) : kNotMeasured; }
};

struct TrainOptions {
  int64_t last_step = -1;       // stop after this step, schedule unchanged; negative: total_steps
  double max_wall_seconds = 0;  // save and stop before this much time has passed; 0: no limit
  CheckpointingOptions checkpointing;
};

class Trainer {
 public:
  // Locks the run directory, opens the data, makes or loads the weights. Nothing of an existing run
  // is changed before all that is well. References must outlive the trainer. Collective, as Run.
  Trainer(LoadedConfig config, const TrainOptions& options, const StopSignals& signals,
          dist::Mesh& mesh, dist::Watchdog& watchdog);
  ~Trainer();

  // kDone after the last step, kStopped after a request to stop. Throws Error(kNumerical) when the
  // run diverged, UserError(kCannotWrite) when it cannot be recorded or saved.
  ExitCode Run();

 private:
  void Start();
  void WriteDescription();
  void ShareHistory();
  void PrintHeader();
  void PrintFooter() const;

  // Tells the watchdog, and tests' faults, what begins.
  void Phase(int64_t step, const char* phase);
  // In the step under way.
  bool FaultIs(const char* kind, const char* phase) const;
  void FlipOneBit();
  StepMetrics Step();
  std::vector<Batch> NextMicroBatches();
  double CountTargets(const std::vector<Batch>& micro_batches);
  double SumOverDataRanks(double value, const char* label);
  bool IsSpike(const StepMetrics& metrics) const;
  double NextLearningRate() const;
  void Advance(StepMetrics* metrics);
  CommunicationTime CommunicationSoFar();
  void MeasureSpeed(const std::vector<Batch>& micro_batches, double seconds, StepMetrics* metrics);
  void RequireEqualReplicas();
  void ReportSlowRank();
  void JudgeStep(const StepMetrics& metrics);

  bool ValidationDue() const;
  double Validate();
  void WriteSamples();
  void Save();
  bool StopRequested();
  ExitCode Finish();

  LoadedConfig config_;
  const TrainSettings& settings_;  // of config_
  const TrainOptions options_;
  const StopSignals& signals_;
  dist::Mesh& mesh_;
  dist::Watchdog& watchdog_;
  const Faults faults_;
  const Timer wall_;
  RunDirectory directory_;
  data::Datasets datasets_;
  model::GptNeox model_;
  kernels::Context ctx_;
  AdamW optimizer_;
  MicroSteps micro_steps_;
  LossScaler scaler_;
  const Schedule schedule_;
  const model::AttentionPlan attention_plan_;
  std::unique_ptr<Recorder> recorder_;  // outlives the saves under way
  Checkpointing checkpoints_;
  checkpoint::TrainState state_;
  std::string start_;  // where the weights come from, for people
  int64_t last_step_;
  int64_t first_step_ = 0;  // what this start began behind
  double peak_flops_ = 0;   // per second, of this rank; 0: unknown

  RankTimes rank_times_;
  std::string non_finite_;  // parameter of this rank's last non-finite gradient
  std::unique_ptr<data::BatchLoader> loader_;
  std::unique_ptr<SampleWriter> samples_;  // null: not wanted
  ZScore loss_z_;
  ZScore grad_norm_z_;
  OwnedTensor loss_sum_;             // [1] f64
  OwnedTensor grad_scale_;           // [1] f32
  OwnedTensor sum_;                  // [1] f64: a number on its way through a collective
  OwnedTensor stop_;                 // [1] i32: whether any rank was asked to stop
  CommunicationTime communication_;  // when the step began
  bool stopped_ = false;
};

}  // namespace sepia::trainer
