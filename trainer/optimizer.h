// AdamW over the model's parameter table: fp32 master weights and moments, NeoX's decay groups
// (ParamSpec::weight_decay), one global gradient norm for clipping.
//
//   for (int64_t i = 0; i < n; ++i) {                // micro-batches
//     model.Forward(ctx, batch, optimizer.weights_needed());
//     const auto gradients = optimizer.MicroBatch(ctx, i, n);
//     model.Backward(ctx, batch, {..., gradients.mode, gradients.ready});
//   }
//   optimizer.MeasureGradients(ctx, loss_scale);   // sum over data ranks, norm, clip factor
//   if (!optimizer.non_finite()) optimizer.Update(ctx, lr);
//
// The model's weight is the master rounded once; kernels/optimizer_state.h says how both are held.
// ZeRO-1: each data rank sums the gradients, keeps the states and updates the weights of its slice
// of model::FlatLayout only; the others' weights come by an all-gather. ZeRO-2, for a model built
// with shard_gradients: it keeps no other gradients either.
// With overlap, gradients are summed while the last backward pass goes on, and weights come while
// the next forward pass begins. Without, weights_needed() and MicroBatch() are optional up to
// ZeRO-1.
// Not thread-safe; one per rank, all calls collective.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/gather.h"
#include "model/gpt_neox.h"
#include "trainer/gradient_reducer.h"
#include "trainer/settings.h"
#include "trainer/state_tensor.h"

namespace sepia::trainer {

class AdamW {
 public:
  // `model` and `mesh` must outlive the optimizer. The master weights are undefined until
  // InitializeWeights or a checkpoint writes them; WeightsLoaded() then tells the model.
  AdamW(const OptimizerSettings& settings, model::GptNeox& model, dist::Mesh& mesh,
        int zero_stage = 0, bool overlap = false);

  // Bytes of master weights and moments of one rank.
  static int64_t PlanBytes(const model::FlatLayout& layout, DType compute_dtype,
                           int64_t num_slices);

  // Draws the initial weights (ParamSpec::init) from `seed`.
  void InitializeWeights(kernels::Context& ctx, uint64_t seed);
  // After something else wrote the master weights: other ranks' weights come.
  void WeightsLoaded(kernels::Context& ctx);

  // Between steps, on all ranks alike.
  void set_overlap(bool overlap) {
    overlap_ = overlap;
    reducer_.set_overlap(overlap);
  }
  // How Backward is called for micro-batch `index` of `count` of a step.
  GradientReducer::Gradients MicroBatch(kernels::Context& ctx, int64_t index, int64_t count) {
    WaitForWeights(ctx);  // a rank without rows has not asked for them
    return reducer_.MicroBatch(ctx, index, count);
  }
  // For Forward: waits until the weights of parameters [begin, end) have come, and starts what
  // comes next.
  std::function<void(int begin, int end)> weights_needed(kernels::Context& ctx);
  // For every other use of the model's weights.
  void WaitForWeights(kernels::Context& ctx);

  // Reduces the model's gradients over data ranks, then measures them. `loss_scale` is what they
  // were multiplied by.
  void MeasureGradients(kernels::Context& ctx, double loss_scale);
  // L2 norm over all parameters, each counted once over all ranks; unscaled, before clipping.
  double grad_norm() const;
  bool non_finite() const;

  // One update with the measured gradients. CHECK-fails when they were non-finite.
  void Update(kernels::Context& ctx, double lr);

  // Number of updates done: Adam's t, and the schedule's n.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // Rectangles of parameters under Hugging Face names, in table order: all that this rank holds
  // (what it loads), or its share of a checkpoint, in which every element is saved by one rank.
  enum class Share : uint8_t { kHeld, kSaved };
  std::vector<StateTensor> Masters(Share share = Share::kHeld) const;
  std::vector<StateTensor> FirstMoments(Share share = Share::kHeld) const;
  std::vector<StateTensor> SecondMoments(Share share = Share::kHeld) const;
  // All that this rank holds beside the model's weights, as it lies in memory: equal where ranks
  // hold the same.
  std::vector<ConstTensorView> StateMemory() const;

 private:
  void ReduceGradients(kernels::Context& ctx);
  void WeightsUpdated(kernels::Context& ctx);
  // Starts the all-gathers of buckets up to `end`.
  void StartGathers(kernels::Context& ctx, size_t end);
  kernels::OptimizerState State(const model::Piece& piece) const;
  std::vector<StateTensor> Named(kernels::StateRole role, Share share) const;

  OptimizerSettings settings_;
  model::GptNeox& model_;
  dist::Mesh& mesh_;
  const std::unique_ptr<dist::Communicator> alone_;
  // Data ranks form a grid: those that hold different slices, and those that hold the same ones.
  dist::Communicator& slices_;
  dist::Communicator& replicas_;
  bool overlap_;
  GradientReducer reducer_;
  std::vector<dist::Pending> gathers_;  // of weights since the last update, by bucket
  std::vector<model::Piece> pieces_;    // of this rank's slice
  Arena arena_;
  kernels::OptimizerState states_;  // of the slice, without the weights
  model::TensorRankSums partial_sums_;
  OwnedTensor squared_norm_;
  OwnedTensor loss_scale_;
  OwnedTensor norm_;
  OwnedTensor grad_multiplier_;
  OwnedTensor skip_;
  int64_t updates_ = 0;
};

}  // namespace sepia::trainer
