// When a run is saved, and how a saved run comes back: the seam between trainer/ and checkpoint/.
//
// A save that fails is reported and the run goes on; after checkpoint.max_failures failures in a
// row it stops with 73. A failed save never touches older checkpoints.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "checkpoint/model_source.h"
#include "checkpoint/train_state.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "trainer/config.h"
#include "trainer/optimizer.h"

namespace sepia::trainer {

class Checkpointing {
 public:
  // All arguments must outlive this object.
  Checkpointing(const LoadedConfig& config, AdamW& optimizer, dist::Mesh& mesh);
  ~Checkpointing();

  // Fills the optimizer's tensors and `state` (which holds the values of a new run) from the newest
  // complete checkpoint, else from init_from, else with random weights. Returns which, for people.
  // Throws UserError when `fresh` and there is a checkpoint, or when the run that it belongs to
  // differs in anything that would make this another run; every difference is named.
  std::string LoadOrInitialize(kernels::Context& ctx, bool fresh, checkpoint::TrainState* state);

  // Whether the config asks for a checkpoint after this step.
  bool Due(int64_t step) const;
  void Save(const checkpoint::TrainState& state);
  // Waits for a save under way. Throws when the last one failed.
  void Finish();

  int64_t last_saved_step() const { return last_saved_step_; }  // -1: none
  double save_seconds() const { return save_seconds_; }  // that the run stood still, last time

 private:
  std::string Resume(kernels::Context& ctx, const std::string& path, checkpoint::TrainState* state);
  std::string StartFrom(kernels::Context& ctx, checkpoint::TrainState* state);
  void CheckSameRun(const std::string& path, const std::string& stored_config,
                    const checkpoint::TrainState& stored, const checkpoint::TrainState& ours) const;
  void LoadTensors(kernels::Context& ctx, const checkpoint::ModelSource& source, bool moments);

  const LoadedConfig& config_;
  const CheckpointSettings& settings_;
  AdamW& optimizer_;
  int64_t last_saved_step_ = -1;
  double save_seconds_ = 0;
};

}  // namespace sepia::trainer
