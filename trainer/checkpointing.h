// When a run is saved, and how a saved run comes back: the seam between trainer/ and checkpoint/.
//
// Saves run in the background on a copy of the tensors (checkpoint.async). One that fails is
// reported and the run goes on; after checkpoint.max_failures failures in a row it stops with 73.
// A failed save never touches older checkpoints.
#pragma once

#include <cstdint>
#include <future>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "checkpoint/model_source.h"
#include "checkpoint/train_state.h"
#include "checkpoint/writer.h"
#include "kernels/context.h"
#include "trainer/config.h"
#include "trainer/optimizer.h"

namespace sepia::trainer {

class Checkpointing {
 public:
  // Sweeps leftovers of interrupted saves: the caller holds the run's lock. Both arguments must
  // outlive this object.
  Checkpointing(const LoadedConfig& config, AdamW& optimizer);
  // Waits for a save under way.
  ~Checkpointing();

  // Fills the optimizer's tensors and `state` (which holds the values of a new run) from the newest
  // complete checkpoint, else from init_from, else with random weights. Returns which, for people.
  // Throws UserError when `fresh` and there is a checkpoint, or when the run that it belongs to
  // differs in anything that would make this another run; every difference is named.
  std::string LoadOrInitialize(kernels::Context& ctx, bool fresh, checkpoint::TrainState* state);

  // Whether the config asks for a checkpoint after this step.
  bool Due(int64_t step) const;
  void Save(const checkpoint::TrainState& state);
  // Logs the outcome of a background save that has ended.
  void Poll();
  // Waits for the last save and throws if it failed.
  void Finish();

  int64_t last_saved_step() const { return last_saved_step_; }  // asked for, at least; -1: none
  double save_seconds() const { return save_seconds_; }         // of the longest save so far

 private:
  struct Outcome {
    std::string error;  // empty: saved
    std::string path;
    double seconds = 0;
  };

  std::string Resume(kernels::Context& ctx, const std::string& path, checkpoint::TrainState* state);
  std::string StartFrom(kernels::Context& ctx, checkpoint::TrainState* state);
  checkpoint::TrainState Continued(const checkpoint::ModelSource& source,
                                   const checkpoint::TrainState& ours) const;
  void CheckSameRun(const std::string& path, const std::string& config_text,
                    const checkpoint::TrainState& stored, const checkpoint::TrainState& ours) const;
  void LoadTensors(kernels::Context& ctx, const checkpoint::ModelSource& source, bool moments);

  std::vector<checkpoint::CheckpointTensor> Tensors() const;
  std::vector<checkpoint::CheckpointTensor> Snapshot();
  Outcome Write(const std::vector<checkpoint::CheckpointTensor>& tensors,
                const checkpoint::TrainState& state);
  void Collect();

  const LoadedConfig& config_;
  const CheckpointSettings& settings_;
  AdamW& optimizer_;
  checkpoint::CheckpointWriter writer_;
  std::vector<checkpoint::Attachment> attachments_;
  Buffer snapshot_;  // made by the first background save
  std::future<Outcome> under_way_;
  std::string last_error_;
  int failures_in_a_row_ = 0;
  int64_t last_saved_step_ = -1;
  double save_seconds_ = 0;
};

}  // namespace sepia::trainer
