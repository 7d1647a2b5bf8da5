// Everything a run writes about its steps: metrics.jsonl, TensorBoard events, the log line.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "trainer/metrics.h"
#include "trainer/run_directory.h"
#include "trainer/settings.h"
#include "trainer/tensorboard.h"

namespace sepia::trainer {

class Recorder {
 public:
  // Cuts metrics.jsonl back to `first_step`, from where the run goes on to `last_step`. Only one
  // rank `writes`; the others' recorders log and measure.
  Recorder(const TrainSettings& settings, const RunDirectory& directory, int64_t first_step,
           int64_t last_step, bool writes);

  // The steps before this start, oldest first; none on ranks that do not write.
  std::span<const StepMetrics> history() const;

  void Record(const StepMetrics& metrics);
  void RecordText(int64_t step, std::string_view tag, std::string_view text);
  // To the disk, before a checkpoint of the same step.
  void Sync();

  // Seconds until the last step at the present pace; NaN before the second step.
  double EtaSeconds(int64_t step) const;
  // Of the last steps, smoothed; 0 before the first.
  double typical_step_seconds() const { return typical_step_seconds_; }
  double best_valid_loss() const { return best_valid_loss_; }

 private:
  void RecordScalars(const StepMetrics& metrics);

  const LoggingSettings logging_;
  const int64_t total_steps_;
  const int64_t first_step_;
  const int64_t last_step_;
  std::unique_ptr<MetricsFile> metrics_;  // null: does not write
  std::unique_ptr<EventFile> events_;     // null: not wanted
  double typical_step_seconds_ = 0;
  double best_valid_loss_ = kNotMeasured;
};

}  // namespace sepia::trainer
