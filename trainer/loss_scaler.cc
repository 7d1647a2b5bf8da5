#include "trainer/loss_scaler.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"

namespace sepia::trainer {

LossScaler::LossScaler(const LossScaleSettings& settings, Precision precision)
    : settings_(settings) {
  if (precision != Precision::kFp16) return;
  CHECK(settings.window > 0 && settings.hysteresis > 0);
  state_.dynamic = settings.static_scale == 0;
  state_.scale =
      state_.dynamic ? std::ldexp(1.0, settings.initial_scale_power) : settings.static_scale;
  state_.hysteresis_left = settings.hysteresis;
}

void LossScaler::Update(bool overflow, int64_t step) {
  if (!state_.dynamic) return;
  if (!overflow) {
    if (++state_.good_steps % settings_.window == 0) {
      state_.scale *= 2;
      state_.hysteresis_left = settings_.hysteresis;
    }
    return;
  }
  state_.good_steps = 0;
  state_.last_overflow_step = step;
  if (state_.hysteresis_left > 1) {
    --state_.hysteresis_left;
    return;
  }
  if (state_.scale <= settings_.min_scale) {
    throw Error(ExitCode::kNumerical,
                fmt::format("step {}: gradients overflow although the loss scale is at its minimum "
                            "{}; the run has diverged: lower optimizer.lr, or use precision: BF16",
                            step, settings_.min_scale));
  }
  state_.scale = std::max(state_.scale / 2, settings_.min_scale);
}

void LossScaler::Restore(const checkpoint::LossScalerState& state) {
  if (state_.dynamic && state.dynamic) state_ = state;
}

}  // namespace sepia::trainer
