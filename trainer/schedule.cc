#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace sepia::trainer {
namespace {

// v1.0: n is cut at E - W and the decay is measured against all of E.
double NeoxV1Rate(const Schedule& s, double n) {
  const double total = static_cast<double>(s.decay_steps);
  const double capped = std::min(n, total - s.warmup_steps);
  if (s.warmup_steps > 0 && n <= s.warmup_steps) return s.lr * capped / s.warmup_steps;
  const double k = capped - s.warmup_steps;
  double rate = s.lr;
  if (s.kind == ScheduleKind::kLinear) rate = s.lr * (total - k) / total;
  if (s.kind == ScheduleKind::kCosine) {
    rate = s.lr / 2.0 * (std::cos(std::numbers::pi * k / total) + 1);
  }
  return std::max(rate, s.min_lr);
}

double Neox2Rate(const Schedule& s, double n) {
  if (s.warmup_steps > 0 && n <= s.warmup_steps) return s.lr * n / s.warmup_steps;
  const double k = n - s.warmup_steps;
  const double length = static_cast<double>(s.decay_steps) - s.warmup_steps;
  double rate = s.lr;
  if (s.kind == ScheduleKind::kLinear) rate = s.lr * (length - k) / length;
  if (s.kind == ScheduleKind::kCosine) {
    rate = s.min_lr + (s.lr - s.min_lr) / 2.0 * (std::cos(std::numbers::pi * k / length) + 1);
  }
  return std::max(rate, s.min_lr);
}

// Hu et al., arXiv 2404.06395: warm-up, a plateau, then a straight line to the floor.
double WarmupStableDecayRate(const Schedule& s, double n) {
  if (s.warmup_steps > 0 && n <= s.warmup_steps) return s.lr * n / s.warmup_steps;
  const double length = static_cast<double>(s.wsd_decay_steps);
  const double left = static_cast<double>(s.decay_steps) - n;
  if (left >= length) return s.lr;
  if (left <= 0) return s.min_lr;
  return s.min_lr + (s.lr - s.min_lr) * left / length;
}

}  // namespace

Schedule MakeSchedule(const TrainSettings& settings) {
  return {.kind = settings.schedule.kind,
          .neox_v1 = settings.numerics == Numerics::kPythiaV1,
          .lr = settings.optimizer.lr,
          .min_lr = settings.optimizer.min_lr,
          .warmup_steps = settings.schedule.warmup_steps,
          .decay_steps = settings.schedule.decay_steps,
          .wsd_decay_steps = settings.schedule.wsd_decay_steps};
}

double LearningRate(const Schedule& schedule, int64_t updates) {
  CHECK(updates >= 0 && schedule.decay_steps > 0);
  const double n = static_cast<double>(updates);
  if (schedule.kind == ScheduleKind::kWarmupStableDecay) return WarmupStableDecayRate(schedule, n);
  return schedule.neox_v1 ? NeoxV1Rate(schedule, n) : Neox2Rate(schedule, n);
}

}  // namespace sepia::trainer
