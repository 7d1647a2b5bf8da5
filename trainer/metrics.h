// metrics.jsonl: one JSON object per optimizer step, the truth about a run. Field names are stable;
// numbers round-trip exactly; NaN and infinity are null with "nan": true.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace sepia::trainer {

inline constexpr int kMetricsSchema = 1;
inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

struct StepMetrics {
  int64_t step = 0;       // 1 = after the first update
  double loss = 0;        // mean over the targets of the global batch, before the update
  double grad_norm = 0;   // before clipping, unscaled
  double lr = 0;          // that the update used (or would have used, when skipped)
  double loss_scale = 1;  // that the gradients were made with
  int64_t tokens = 0;     // consumed so far, this step included
  double tokens_per_s = 0;
  double step_ms = 0;
  double data_ms = 0;                 // waiting for the loader
  double comm_ms = 0;                 // waiting for other ranks
  double comm_hidden = kNotMeasured;  // share of the collectives' time not waited for, 0 ... 1
  // Every rank's step without waiting for others; empty with one rank.
  std::vector<double> rank_step_ms;
  double mfu = kNotMeasured;  // share of the machine's peak, 0 ... 1
  double attn_kept = 0;       // visited pairs over the causal triangle, 0 ... 1
  double flops = 0;           // of this step (trainer/flops.h)
  int64_t rss_bytes = 0;
  int64_t skipped = 0;           // updates skipped so far
  bool update_skipped = false;   // this one: "skip"
  double loss_z = kNotMeasured;  // against the last safety.zscore_window steps
  double grad_norm_z = kNotMeasured;
  double valid_loss = kNotMeasured;  // written only for steps that validated

  // Whether the step could update the weights at all.
  bool finite() const { return std::isfinite(loss) && std::isfinite(grad_norm); }
};

// One line without the newline.
std::string ToJson(const StepMetrics& metrics);
// Reads the fields of one line; false for anything that ToJson does not write.
bool ParseMetrics(std::string_view line, StepMetrics* metrics);

// The file of a run, opened for appending. Write errors throw UserError(kCannotWrite).
class MetricsFile {
 public:
  // Cuts back to the complete lines with step <= `last_step`: what a resumed run continues.
  MetricsFile(const std::string& path, int64_t last_step);

  // The records at the time of opening, oldest first.
  std::span<const StepMetrics> history() const { return history_; }

  void Append(const StepMetrics& metrics);
  // To the disk: before a checkpoint of the same step is committed.
  void Sync() { file_.Sync(); }

 private:
  std::vector<StepMetrics> history_;
  File file_;
};

}  // namespace sepia::trainer
