// How long a training step would take, part by part, from what it computes (step_work.h), what it
// sends (step_traffic.h) and what the hardware reaches (hardware.h). Parts follow one another
// except where communication passes beside computing.
#pragma once

#include <cstdint>

#include "trainer/hardware.h"
#include "trainer/settings.h"
#include "trainer/step_traffic.h"

namespace sepia::trainer {

struct Cluster {
  int64_t nodes = 1;
  int64_t ranks_per_node = 1;

  int64_t ranks() const { return nodes * ranks_per_node; }
};

// Bytes that one rank sends in a step, by link. Data ranks of one tensor group position lie on all
// nodes, as many on each.
struct LinkBytes {
  double tensor_in_node = 0;
  double data_in_node = 0;
  double data_across_nodes = 0;
};

// Seconds of one step.
struct StepPrediction {
  double linear = 0, attention = 0, head = 0, elementwise = 0, optimizer = 0;
  double tensor_communication = 0, data_communication = 0;  // in all, hidden or not
  double exposed_communication = 0;
  double data = 0;  // waiting for the loader, which fetches ahead

  LinkBytes bytes;
  double mfu = 0;  // useful operations over the peaks of all ranks
  double tokens_per_s = 0;

  double compute() const { return linear + attention + head + elementwise + optimizer; }
  double step() const { return compute() + exposed_communication + data; }
};

// `settings` with its parallel.tensor, zero_stage, sequence, recompute and batch on the ranks of
// `cluster`; a share `density` of the tokens are separators.
StepPrediction PredictStep(const TrainSettings& settings, const Cluster& cluster,
                           const Hardware& hardware, double density);

}  // namespace sepia::trainer
