// Saves checkpoints so that a crash at any moment leaves the previous or the new one, whole.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"
#include "checkpoint/manifest.h"
#include "checkpoint/step_directories.h"
#include "checkpoint/train_state.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

// A small file that travels with the tensors, e.g. {"tokenizer.json", its text}.
struct Attachment {
  std::string name;  // no directory part
  std::string content;
};

struct CheckpointContents {
  int64_t step = 0;
  // Resolved; a reader needs nothing else to build the model.
  const config::ModelConfig* model = nullptr;
  // Rectangles that tile each (name, role). Any order. Of a save by several processes: those of the
  // process.
  std::span<const CheckpointTensor> tensors;
  // Null: weights only, not resumable.
  const TrainState* train_state = nullptr;
  // Resolved TrainConfig in text format.
  std::string config_text;
  std::span<const Attachment> attachments;
};

struct CheckpointWriterOptions {
  std::string dir;  // made when missing; holds step_N directories
  Retention retention = {};
  bool verify = false;  // read back what was written before it is committed
  // Tests only: called before each step of the protocol, by its name.
  std::function<void(std::string_view stage)> before_stage = {};
};

// A save under way: what its processes must agree on.
struct SaveAttempt {
  std::string directory;  // temporary
  Uuid uuid{};
  int64_t step = 0;
  int num_shards = 1;
};

// Writes shard `rank` of an attempt, by any process; `verify` as above. Returns a report for
// Commit.
std::string WriteShardOf(const SaveAttempt& attempt, int rank,
                         std::span<const CheckpointTensor> tensors, bool verify = false);

// One process of a run. The caller holds the run's lock: the constructor sweeps leftovers.
class CheckpointWriter {
 public:
  explicit CheckpointWriter(CheckpointWriterOptions options);

  // Writes, syncs and commits dir/step_N, then moves the LATEST hint and applies the retention.
  // An existing step_N is replaced in one rename. Returns the path. Throws UserError(kCannotWrite)
  // when the attempt failed: nothing that existed has changed, and training may go on.
  std::string Save(const CheckpointContents& contents);

  // The same in steps, for several processes: Begin, which only chooses names; WriteShardOf by each
  // of `num_shards` processes; Commit with all their reports, or Abandon when one of them failed.
  // Commit abandons by itself when it throws; contents.tensors is not used.
  SaveAttempt Begin(int64_t step, int num_shards) const;
  std::string Commit(const SaveAttempt& attempt, const CheckpointContents& contents,
                     std::span<const std::string> reports) const;
  void Abandon(const SaveAttempt& attempt) const;

  const std::string& dir() const { return options_.dir; }

 private:
  void Stage(std::string_view name) const;
  void WriteManifest(const SaveAttempt& attempt, const CheckpointContents& contents,
                     std::span<const std::string> reports) const;
  void Publish(const std::string& temporary, const std::string& final_path) const;

  CheckpointWriterOptions options_;
};

}  // namespace sepia::checkpoint
