// The dynamic loss scale of FP16 training, by DeepSpeed's rules.
//
// Overflow: the first hysteresis - 1 of them only use up patience; every further one halves the
// scale. Success: when the number of iterations since the last overflow (counted from -1 before the
// first) is a multiple of `window`, the scale doubles and patience is restored.
// Source: DeeperSpeed 0.3.15 runtime/fp16/loss_scaler.py, DynamicLossScaler.update_scale.
// The gradients of a step are divided by the scale they were made with (docs/design/060).
#pragma once

#include <cstdint>

#include "trainer/settings.h"

namespace sepia::trainer {

class LossScaler {
 public:
  // What a checkpoint stores.
  struct State {
    double scale = 1;
    int32_t hysteresis_left = 0;
    int64_t iteration = 0;
    int64_t last_overflow_iteration = -1;
    friend bool operator==(const State&, const State&) = default;
  };

  // FP16: dynamic, or settings.static_scale if that is given. Other precisions: always 1.
  LossScaler(const LossScaleSettings& settings, Precision precision);

  double scale() const { return state_.scale; }

  // After every step. Throws Error(kNumerical) when an overflow meets a scale that is already at
  // its minimum: from there on nothing could change.
  void Update(bool overflow);

  const State& state() const { return state_; }
  // Static scales keep their own value.
  void Restore(const State& state);

 private:
  LossScaleSettings settings_;
  bool dynamic_;
  State state_;
};

}  // namespace sepia::trainer
