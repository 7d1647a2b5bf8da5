// The dynamic loss scale of FP16 training, by DeepSpeed's rules.
//
// Overflow: the first hysteresis - 1 of them only use up patience; every further one halves the
// scale. Success: after every `window` steps without overflow the scale doubles and patience is
// restored; single successes do not restore it.
// Source: DeeperSpeed 0.3.15 runtime/fp16/loss_scaler.py, DynamicLossScaler.update_scale.
// The gradients of a step are divided by the scale they were made with
// (docs/design/004-loss-scale.md).
#pragma once

#include <cstdint>

#include "checkpoint/train_state.h"
#include "trainer/settings.h"

namespace sepia::trainer {

class LossScaler {
 public:
  // FP16: dynamic, or settings.static_scale if that is given. Other precisions: always 1.
  LossScaler(const LossScaleSettings& settings, Precision precision);

  double scale() const { return state_.scale; }

  // After every step; `step` is its number. Throws Error(kNumerical) when an overflow meets a scale
  // that is already at its minimum: from there on nothing could change.
  void Update(bool overflow, int64_t step);

  // For checkpoints.
  const checkpoint::LossScalerState& state() const { return state_; }
  // Fixed scales keep their own value, and a dynamic one that a fixed one left starts afresh.
  void Restore(const checkpoint::LossScalerState& state);

 private:
  LossScaleSettings settings_;
  checkpoint::LossScalerState state_;
};

}  // namespace sepia::trainer
