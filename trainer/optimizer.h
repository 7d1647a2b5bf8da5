// AdamW over the model's parameter table: fp32 master weights and moments, NeoX's decay groups
// (ParamSpec::weight_decay), one global gradient norm for clipping.
//
//   optimizer.MeasureGradients(ctx, loss_scale);   // sum over data ranks, norm, clip factor
//   if (!optimizer.non_finite()) optimizer.Update(ctx, lr);
//
// In FP32 the master *is* the model's weight; otherwise the weight is the master rounded once.
// ZeRO-1: each data rank sums the gradients, keeps the states and updates the weights of its slice
// of model::FlatLayout only; the others' weights come by an all-gather.
// Not thread-safe; one per rank, all calls collective.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/named_tensor.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"
#include "trainer/settings.h"

namespace sepia::trainer {

class AdamW {
 public:
  // `model` and `mesh` must outlive the optimizer. The master weights are undefined until
  // InitializeWeights or a checkpoint fills them; WeightsLoaded() then carries them to the model.
  AdamW(const OptimizerSettings& settings, model::GptNeox& model, dist::Mesh& mesh,
        int zero_stage = 0);

  // Bytes of master weights and moments of one rank.
  static int64_t PlanBytes(const model::FlatLayout& layout, DType compute_dtype,
                           int64_t num_slices);

  // Draws the initial weights (ParamSpec::init) from `seed`.
  void InitializeWeights(kernels::Context& ctx, uint64_t seed);
  // After something else wrote the master weights: the model's weights follow.
  void WeightsLoaded(kernels::Context& ctx);

  // Reduces the model's gradients over data ranks, then measures them. `loss_scale` is what they
  // were multiplied by.
  void MeasureGradients(kernels::Context& ctx, double loss_scale);
  // L2 norm over all parameters, each counted once over all ranks; unscaled, before clipping.
  double grad_norm() const;
  bool non_finite() const;

  // Seconds that MeasureGradients waited for other ranks since the last call of this function.
  double TakeCommSeconds() { return std::exchange(comm_seconds_, 0); }

  // One update with the measured gradients. CHECK-fails when they were non-finite.
  void Update(kernels::Context& ctx, double lr);

  // Number of updates done: Adam's t, and the schedule's n.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // Rectangles of parameters under Hugging Face names, in table order: all that this rank holds
  // (what it loads), or its share of a checkpoint, in which every element is saved by one rank.
  enum class Share : uint8_t { kHeld, kSaved };
  std::vector<NamedTensor> Masters(Share share = Share::kHeld) const;
  std::vector<NamedTensor> FirstMoments(Share share = Share::kHeld) const;
  std::vector<NamedTensor> SecondMoments(Share share = Share::kHeld) const;

 private:
  enum class Role : uint8_t { kMaster, kExpAvg, kExpAvgSq };

  void ReduceGradients(kernels::Context& ctx);
  void GatherWeights(kernels::Context& ctx);
  // Elements of a piece: of a state, the gradients or the weights.
  TensorView State(const model::Piece& piece, Role role) const;
  TensorView Gradient(const model::Piece& piece) const;
  TensorView Weight(const model::Piece& piece) const;
  std::vector<NamedTensor> Named(Role role, Share share) const;

  OptimizerSettings settings_;
  model::GptNeox& model_;
  dist::Mesh& mesh_;
  const std::unique_ptr<dist::Communicator> alone_;
  // Data ranks form a grid: those that hold different slices, and those that hold the same ones.
  dist::Communicator& slices_;
  dist::Communicator& replicas_;
  std::vector<model::Piece> pieces_;  // of this rank's slice
  Arena arena_;
  TensorView master_;  // empty when the weight is the master
  TensorView exp_avg_, exp_avg_sq_;
  OwnedTensor squared_norm_;
  OwnedTensor loss_scale_;
  OwnedTensor norm_;
  OwnedTensor grad_multiplier_;
  OwnedTensor skip_;
  int64_t updates_ = 0;
  double comm_seconds_ = 0;
};

}  // namespace sepia::trainer
