// Ranks with a model, an optimizer and checkpoints, whose state says of itself whether it is whole.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/step_directories.h"
#include "dist/communicator.h"
#include "dist/mesh.h"
#include "model/gpt_neox.h"
#include "tests/support/temp_dir.h"
#include "tests/trainer/rank_layout.h"
#include "trainer/checkpointing.h"

namespace sepia::trainer {

inline constexpr int64_t kRows = 8;
inline constexpr int64_t kLength = 24;

checkpoint::TrainState SomeState(int64_t step);

// One rank's model, optimizer and checkpoints.
class CheckpointedRank {
 public:
  CheckpointedRank(const Layout& layout, LoadedConfig config,
                   std::unique_ptr<dist::Communicator> world, CheckpointingOptions options = {});

  AdamW& optimizer() { return optimizer_; }
  Checkpointing& checkpoints() { return checkpoints_; }
  kernels::Context& ctx() { return ctx_; }
  int rank() { return mesh_.world().rank(); }

  void Fill();

  // Elements that this rank holds and that are not those of Fill.
  int64_t CountWrong();

  double Loss();

 private:
  void ForEachState(const std::function<void(const StateTensor&, checkpoint::Role)>& fn);

  Layout layout_;
  LoadedConfig config_;
  dist::Mesh mesh_;
  model::GptNeox model_;
  kernels::Context ctx_;
  AdamW optimizer_;
  Checkpointing checkpoints_;
};

class CheckpointingTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Runs `body` on every rank.
  void OnRanks(const Layout& layout, const std::function<void(CheckpointedRank&)>& body,
               const CheckpointingOptions& options = {}, const std::vector<std::string>& more = {});

  void Save(const Layout& layout, int64_t step);

  // Resumes; the state that comes back.
  checkpoint::TrainState Load(const Layout& layout, const CheckpointingOptions& options = {},
                              const std::vector<std::string>& more = {});

  std::string StepPath(int64_t step) const {
    return root_ + "/" + checkpoint::StepDirectoryName(step);
  }

  sepia::testing::TempDir dir_;
  std::string root_ = dir_.File("checkpoints");
  std::mutex mutex_;
  std::string log_;
  int failed_saves_ = 0;
};

}  // namespace sepia::trainer
