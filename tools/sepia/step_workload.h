// What `bench step` and gpu_check run: a model, its optimizer and one batch that every step
// repeats.
#pragma once

#include <cstdint>
#include <vector>

#include "base/batch.h"
#include "base/buffer.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"
#include "trainer/flops.h"
#include "trainer/optimizer.h"
#include "trainer/settings.h"

namespace sepia::tools {

struct StepSeconds {
  double forward = 0, backward = 0, optimizer = 0;
  double total() const { return forward + backward + optimizer; }
};

// Not to be moved: the optimizer refers to the model.
class StepWorkload {
 public:
  // `stream`: rows of T + 1 consecutive tokens, settings.batch.micro of them. Weights are fresh.
  // settings.device must be open.
  StepWorkload(const trainer::TrainSettings& settings, const std::vector<int32_t>& stream);

  // Forward, backward, update.
  StepSeconds Run();

  // A fresh model's loss is near ln V and falls when it sees the same batch again; throws when it
  // did not.
  void VerifyLosses() const;

  trainer::AdamW& optimizer() { return optimizer_; }
  dist::Communicator& world() { return mesh_.world(); }

  trainer::AttentionWork attention_work() const;
  // Useful operations of one step: recomputation is not counted.
  double flops() const;
  int64_t num_tokens() const { return batch_.num_targets(); }
  double first_loss() const { return first_loss_; }
  double last_loss() const { return last_loss_; }

 private:
  double Backward();

  dist::Mesh mesh_;
  model::GptNeox model_;
  kernels::Context ctx_;
  trainer::AdamW optimizer_;
  Batch batch_;
  OwnedTensor loss_sum_, grad_scale_;
  double first_loss_ = 0, last_loss_ = 0;
  bool has_run_ = false;
};

}  // namespace sepia::tools
