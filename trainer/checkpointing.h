// When a run is saved: with state_loader.h the seam between trainer/ and checkpoint/.
//
// Every rank writes a shard with its share; rank 0 commits when all have. Saves run in the
// background on a copy of the tensors (checkpoint.async). One that fails is reported and the run
// goes on; after checkpoint.max_failures failures in a row it stops with 73. A failed save never
// touches older checkpoints. All calls are collective, at the same step on all ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "checkpoint/train_state.h"
#include "checkpoint/writer.h"
#include "dist/communicator.h"
#include "kernels/context.h"
#include "trainer/config.h"
#include "trainer/optimizer.h"
#include "trainer/state_loader.h"

namespace sepia::trainer {

class Checkpointing {
 public:
  // Sweeps leftovers of interrupted saves: rank 0 holds the run's lock. The references must outlive
  // this object.
  Checkpointing(const LoadedConfig& config, CheckpointingOptions options, AdamW& optimizer,
                dist::Communicator& world);
  // Waits for this rank's part of a save under way.
  ~Checkpointing();

  // StateLoader's.
  std::string LoadOrInitialize(kernels::Context& ctx, checkpoint::TrainState* state);

  // Whether the config asks for a checkpoint after this step.
  bool Due(int64_t step) const;
  // `before_commit` runs in the background on rank 0: whatever must not be younger than the
  // checkpoint becomes durable there. If it throws, the save failed.
  void Save(const checkpoint::TrainState& state, std::function<void()> before_commit = nullptr);
  // Brings a save under way forward if all ranks are ready for that, and logs its outcome.
  void Poll();
  // Waits for the last save and throws if it failed.
  void Finish();

  int64_t last_saved_step() const { return last_saved_step_; }  // asked for, at least; -1: none
  double save_seconds() const { return save_seconds_; }         // of the longest save so far

 private:
  // What a rank has to say about its part of a save.
  struct Outcome {
    std::string error = {};  // empty: done
    std::string text = {};   // report of the shard, then path of the checkpoint
    double seconds = 0;
  };
  // A save: each rank writes its shard, then rank 0 commits.
  enum class Phase : uint8_t { kNone, kWriting, kCommitting };

  std::vector<std::pair<StateTensor, checkpoint::Role>> States() const;
  std::vector<checkpoint::CheckpointTensor> Tensors() const;
  std::vector<checkpoint::CheckpointTensor> Snapshot();
  bool BeginOnAllRanks(int64_t step);
  void Run(std::function<std::string()> work);
  bool AllReady();
  void Advance();
  void StartCommit(const std::vector<std::string>& reports);
  void Collect();
  void Conclude(const Outcome& outcome);

  const LoadedConfig& config_;
  const CheckpointingOptions options_;
  const CheckpointSettings& settings_;
  AdamW& optimizer_;
  dist::Communicator& world_;
  StateLoader loader_;
  std::unique_ptr<checkpoint::CheckpointWriter> writer_;  // of rank 0
  std::vector<checkpoint::Attachment> attachments_;
  Buffer snapshot_;  // made by the first background save

  Phase phase_ = Phase::kNone;
  checkpoint::SaveAttempt attempt_;
  checkpoint::TrainState saved_state_;
  std::function<void()> before_commit_;
  double seconds_so_far_ = 0;  // of the save under way: this rank's work, without waiting
  std::future<Outcome> under_way_;

  std::string last_error_;
  int failures_in_a_row_ = 0;
  int64_t last_saved_step_ = -1;
  double save_seconds_ = 0;
};

}  // namespace sepia::trainer
