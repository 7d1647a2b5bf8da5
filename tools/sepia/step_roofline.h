// The least that one training step must compute and move, part by part: what bounds it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/settings.h"

namespace sepia::tools {

struct RooflinePart {
  std::string name;
  double flops;
  double bytes;  // each operand from memory once and each result to memory once

  double intensity() const { return bytes > 0 ? flops / bytes : 0; }
  // With both units busy all the time.
  double Seconds(double gflops, double gb_per_s) const;
};

// Linear layers, attention, LM head with loss, the rest of the blocks, optimizer. `density`: share
// of separators. One micro-batch of settings.batch.micro x settings.data.sequence_length tokens.
std::vector<RooflinePart> RooflineOfStep(const trainer::TrainSettings& settings, double density);

// Reads and writes of all threads together, over arrays beyond any cache: 1e9 bytes a second.
double MemoryGbPerSecond(int num_threads);

}  // namespace sepia::tools
