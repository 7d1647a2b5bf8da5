#include "trainer/recorder.h"

#include <cmath>

#include "base/log.h"
#include "trainer/log_line.h"

namespace sepia::trainer {
namespace {

// Weight of the newest step in the smoothed duration.
constexpr double kSmoothing = 0.1;

}  // namespace

Recorder::Recorder(const TrainSettings& settings, const RunDirectory& directory, int64_t first_step,
                   int64_t last_step, bool writes)
    : logging_(settings.logging),
      total_steps_(settings.schedule.total_steps),
      first_step_(first_step),
      last_step_(last_step) {
  if (!writes) return;
  metrics_ = std::make_unique<MetricsFile>(directory.metrics(), first_step);
  if (logging_.tensorboard) events_ = std::make_unique<EventFile>(directory.path());
  for (const StepMetrics& metrics : history()) {
    best_valid_loss_ = std::fmin(best_valid_loss_, metrics.valid_loss);
  }
}

std::span<const StepMetrics> Recorder::history() const {
  return metrics_ == nullptr ? std::span<const StepMetrics>() : metrics_->history();
}

void Recorder::Record(const StepMetrics& metrics) {
  const double seconds = metrics.step_ms / 1000;
  // The first step of a process touches its memory for the first time: it says little.
  const bool settled = metrics.step > first_step_ + 2;
  typical_step_seconds_ =
      settled ? (1 - kSmoothing) * typical_step_seconds_ + kSmoothing * seconds : seconds;
  best_valid_loss_ = std::fmin(best_valid_loss_, metrics.valid_loss);
  if (metrics_ != nullptr) metrics_->Append(metrics);
  if (events_ != nullptr) RecordScalars(metrics);
  const bool due = metrics.step == first_step_ + 1 || metrics.step == last_step_ ||
                   metrics.step % logging_.every_steps == 0;
  if (due || metrics.update_skipped || !std::isnan(metrics.valid_loss)) {
    LogInfo("{}", FormatLogLine(metrics, total_steps_, EtaSeconds(metrics.step)));
  }
}

void Recorder::RecordScalars(const StepMetrics& m) {
  events_->AddScalar(m.step, "train/loss", m.loss);
  events_->AddScalar(m.step, "train/grad_norm", m.grad_norm);
  events_->AddScalar(m.step, "train/lr", m.lr);
  events_->AddScalar(m.step, "train/loss_scale", m.loss_scale);
  events_->AddScalar(m.step, "train/attn_kept", m.attn_kept);
  events_->AddScalar(m.step, "speed/tokens_per_s", m.tokens_per_s);
  events_->AddScalar(m.step, "speed/step_ms", m.step_ms);
  if (!std::isnan(m.mfu)) events_->AddScalar(m.step, "speed/mfu", m.mfu);
  if (!std::isnan(m.valid_loss)) events_->AddScalar(m.step, "valid/loss", m.valid_loss);
}

void Recorder::RecordText(int64_t step, std::string_view tag, std::string_view text) {
  if (events_ != nullptr) events_->AddText(step, tag, text);
}

void Recorder::Sync() {
  if (metrics_ != nullptr) metrics_->Sync();
  if (events_ != nullptr) events_->Flush();
}

double Recorder::EtaSeconds(int64_t step) const {
  if (step < first_step_ + 2) return kNotMeasured;
  return typical_step_seconds_ * static_cast<double>(last_step_ - step);
}

}  // namespace sepia::trainer
