// A model of 16 small tensors whose every value follows from a formula, and checkpoints of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/buffer.h"
#include "checkpoint/checkpoint_tensor.h"
#include "checkpoint/model_source.h"
#include "checkpoint/train_state.h"
#include "checkpoint/writer.h"
#include "tests/support/temp_dir.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint::testing {

// 1 layer, hidden 8, 2 heads, vocabulary 16, SEP attention.
void FillTinyModel(config::ModelConfig* model);

// Element `i` of a tensor: distinct for every (name, role, i, salt), finite, exact in fp32.
float TinyValue(const std::string& name, Role role, int64_t i, int salt);

TrainState TinyTrainState(int64_t step);

// Owns the tensors of one state; `salt` makes states differ.
class TinyState {
 public:
  explicit TinyState(int salt, bool with_moments = true);
  std::vector<CheckpointTensor> tensors() const;

 private:
  struct Entry {
    std::string name;
    Role role;
    OwnedTensor values;
  };
  std::vector<Entry> entries_;
};

// Saves the state `salt` = step.
std::string SaveTiny(CheckpointWriter* writer, int64_t step);

// Whether a source has exactly the state `salt`: weights, and moments where it has them.
::testing::AssertionResult HasTinyState(const ModelSource& source, int salt);

// A tiny checkpoint in a temporary directory, opened as a source, and the log since then.
class TinySourceTest : public ::testing::Test {
 protected:
  static constexpr int kSalt = 7;  // also its step

  void SetUp() override;
  void TearDown() override;

  ::sepia::testing::TempDir dir_;
  std::unique_ptr<ModelSource> tiny_;
  std::string log_;
};

// Flips one bit of a file in place.
void FlipBit(const std::string& path, int64_t bit);

}  // namespace sepia::checkpoint::testing
