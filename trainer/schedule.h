// The learning rate as a function of the number of updates done.
//
// Two families, kept apart because published runs differ by them: GPT-NeoX v1.0 (Pythia), whose
// cosine and linear decays stretch over all of decay_steps and then hit a floor, and GPT-NeoX 2.x
// as SepLLM used it, whose decays end at decay_steps. Both start at rate 0 when there is a warm-up.
// Source: megatron/learning_rates.py at tag v1.0 and at HKUDS/SepLLM @f250f59.
#pragma once

#include <cstdint>

#include "trainer/settings.h"

namespace sepia::trainer {

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  bool neox_v1 = false;         // numerics PYTHIA_V1
  double lr = 0;                // peak
  double min_lr = 0;            // floor
  double warmup_steps = 0;      // linear from 0; not rounded, as NeoX (0.01 * 150 = 1.5)
  int64_t decay_steps = 1;      // E, warm-up included
  int64_t wsd_decay_steps = 0;  // kWarmupStableDecay: length of the final linear decay
};

Schedule MakeSchedule(const TrainSettings& settings);

// `updates` = successful updates before the one that uses the rate: 0, 1, 2, ...
// Past decay_steps the 2.x cosine rises again, as NeoX's does.
double LearningRate(const Schedule& schedule, int64_t updates);

}  // namespace sepia::trainer
