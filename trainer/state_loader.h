// Where a run starts: the newest complete checkpoint of its directory, else init_from, else random
// weights; and why it refuses to.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/model_source.h"
#include "checkpoint/train_state.h"
#include "dist/communicator.h"
#include "kernels/context.h"
#include "trainer/config.h"
#include "trainer/optimizer.h"

namespace sepia::trainer {

struct CheckpointingOptions {
  bool fresh = false;              // refuse to resume
  bool fallback_to_older = false;  // past damaged checkpoints, which are set aside
  bool verify_after_save = false;  // read every shard back before the commit
  // Config paths ("model.attention.window", "data") that may differ from the checkpoint's although
  // that makes another run of it.
  std::vector<std::string> overrides = {};
};

// All calls are collective over `world`.
class StateLoader {
 public:
  // The references must outlive this object. Throws UserError when an override names no field.
  StateLoader(const LoadedConfig& config, const CheckpointingOptions& options, AdamW& optimizer,
              dist::Communicator& world);

  // Fills the optimizer's tensors and `state`, which holds the values of a new run. Returns the
  // source, for people; `resumed` says whether it is a checkpoint of this run. Throws UserError
  // when a fresh start was asked for and there is a checkpoint, or when the run that it belongs to
  // differs in anything that would make this another run and was not overridden; every difference
  // is named.
  std::string LoadOrInitialize(kernels::Context& ctx, checkpoint::TrainState* state, bool* resumed);

 private:
  std::vector<std::string> PathsToTry();
  std::string LoadNewest(const std::vector<std::string>& paths, checkpoint::TrainState* state);
  void Load(const std::string& path, checkpoint::TrainState* state);
  void StartFrom(const checkpoint::ModelSource& source, checkpoint::TrainState* state);
  checkpoint::TrainState Continued(const checkpoint::ModelSource& source,
                                   const checkpoint::TrainState& ours) const;
  void CheckSameRun(const std::string& path, const std::string& config_text,
                    const checkpoint::TrainState& stored, const checkpoint::TrainState& ours) const;
  bool Overridden(std::string_view path) const;
  void LoadTensors(const checkpoint::ModelSource& source, bool moments);

  const LoadedConfig& config_;
  const CheckpointingOptions& options_;
  AdamW& optimizer_;
  dist::Communicator& world_;
};

}  // namespace sepia::trainer
