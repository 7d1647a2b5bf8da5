#include "trainer/loss_scaler.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"

namespace sepia::trainer {

LossScaler::LossScaler(const LossScaleSettings& settings, Precision precision)
    : settings_(settings), dynamic_(precision == Precision::kFp16 && settings.static_scale == 0) {
  if (precision != Precision::kFp16) return;
  CHECK(settings.window > 0 && settings.hysteresis > 0);
  state_.scale = dynamic_ ? std::ldexp(1.0, settings.initial_scale_power) : settings.static_scale;
  state_.hysteresis_left = settings.hysteresis;
}

void LossScaler::Update(bool overflow) {
  if (!dynamic_) return;
  if (overflow) {
    if (state_.hysteresis_left > 1) {
      --state_.hysteresis_left;
    } else {
      if (state_.scale <= settings_.min_scale) {
        throw Error(ExitCode::kNumerical,
                    fmt::format("gradients overflow although the loss scale is at its minimum {}; "
                                "the run has diverged: lower optimizer.lr, or use precision: BF16",
                                settings_.min_scale));
      }
      state_.scale = std::max(state_.scale / 2, settings_.min_scale);
    }
    state_.last_overflow_iteration = state_.iteration;
  } else if ((state_.iteration - state_.last_overflow_iteration) % settings_.window == 0) {
    state_.hysteresis_left = settings_.hysteresis;
    state_.scale *= 2;
  }
  ++state_.iteration;
}

void LossScaler::Restore(const State& state) {
  if (dynamic_) state_ = state;
}

}  // namespace sepia::trainer
