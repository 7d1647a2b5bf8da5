// Every layout in which a run could be cut over given ranks: what each needs and how fast it would
// be.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/hardware.h"
#include "trainer/memory_plan.h"
#include "trainer/settings.h"
#include "trainer/step_prediction.h"

namespace sepia::trainer {

struct LayoutPlan {
  TrainSettings settings;  // with parallel, batch.micro and recompute of this layout
  int64_t data_ranks = 1;
  RunMemory memory = {};     // of one rank
  int64_t excess_bytes = 0;  // beyond what the hardware has; 0: it fits
  StepPrediction prediction = {};
};

// Layouts that the model, the batch or the nodes rule out.
struct RefusedLayout {
  std::string what;  // "tensor 3"
  std::string why;   // "does not divide the 8 heads"
};

struct LayoutSearch {
  std::vector<LayoutPlan> fitting;    // fastest first
  std::vector<LayoutPlan> too_large;  // least excess first
  std::vector<RefusedLayout> refused;
};

// Tensor groups lie inside nodes. batch.global and the sequence length stay as they are; the
// micro-batch is any divisor of a data rank's share.
LayoutSearch SearchLayouts(const TrainSettings& settings, const Cluster& cluster,
                           const Hardware& hardware, double density);

}  // namespace sepia::trainer
