// What one training step computes and moves at least, part by part: for rooflines and predictions.
#pragma once

#include <array>
#include <cstdint>

#include "trainer/settings.h"

namespace sepia::trainer {

struct WorkPart {
  const char* name;
  double flops;  // executed, recomputation included
  double bytes;  // each operand from memory once and each result to memory once

  double intensity() const { return bytes > 0 ? flops / bytes : 0; }
};

struct StepWork {
  // Forward and backward of one micro-batch, one rank.
  WorkPart linear, attention, head, elementwise;
  // Once a step, one rank: its share of the update.
  WorkPart optimizer;

  std::array<WorkPart, 5> parts() const {
    return {linear, attention, head, elementwise, optimizer};
  }
};

// Of each rank out of `data_ranks` x settings.parallel.tensor; micro-batches of
// settings.batch.micro x settings.data.sequence_length tokens of which a share `density` are
// separators.
StepWork WorkOfRank(const TrainSettings& settings, int64_t data_ranks, double density);

// Share of a micro-batch's work that is its forward pass: products and attention cost twice as much
// backward.
constexpr double kForwardShare = 1.0 / 3;

}  // namespace sepia::trainer
