// AdamW over the model's parameter table: fp32 master weights and moments, NeoX's decay groups
// (ParamSpec::weight_decay), one global gradient norm for clipping.
//
//   optimizer.MeasureGradients(ctx, loss_scale);   // sum over data ranks, norm, clip factor
//   if (!optimizer.non_finite()) optimizer.Update(ctx, lr);
//
// In FP32 the master *is* the model's weight; otherwise the weight is the master rounded once.
// Not thread-safe; one per rank.
#pragma once

#include <cstdint>
#include <span>
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
  AdamW(const OptimizerSettings& settings, model::GptNeox& model, dist::Mesh& mesh);

  // Bytes of master weights and moments.
  static int64_t PlanBytes(const model::ModelConfig& config, DType compute_dtype);

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

  // Local shards under Hugging Face names, in table order: what checkpoints write and read.
  std::vector<NamedTensor> Masters() const;
  std::vector<NamedTensor> FirstMoments() const;
  std::vector<NamedTensor> SecondMoments() const;

 private:
  struct Slot {
    TensorView master;
    TensorView exp_avg;
    TensorView exp_avg_sq;
  };

  static std::vector<Slot> Allocate(Arena& arena, const std::vector<Shape>& shapes,
                                    std::span<const model::ParamSpec> specs, bool own_master);
  NamedTensor Named(size_t i, TensorView view) const;

  OptimizerSettings settings_;
  model::GptNeox& model_;
  dist::Mesh& mesh_;
  bool master_is_weight_;
  Arena arena_;
  std::vector<Slot> slots_;
  OwnedTensor squared_norm_;
  OwnedTensor loss_scale_;
  OwnedTensor norm_;
  OwnedTensor grad_multiplier_;
  OwnedTensor skip_;
  int64_t updates_ = 0;
  double comm_seconds_ = 0;
};

}  // namespace sepia::trainer
