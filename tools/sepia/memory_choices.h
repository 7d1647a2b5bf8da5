// What sepia check says about the two settings that trade memory for time: batch.micro, recompute.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/flops.h"
#include "trainer/settings.h"

namespace sepia::tools {

// The same step in other pieces. Losses and gradients differ by the order of sums at most; with and
// without recompute by nothing.
struct MemoryChoice {
  int64_t micro;         // samples of a micro-batch
  int64_t accumulation;  // micro-batches of a step and rank
  bool recompute;
  int64_t bytes;  // planned, of one rank
};

// The configured micro-batch and powers of two that divide a rank's samples, from one sample to
// four times the configured size (at least 8), each without and with recomputation.
std::vector<MemoryChoice> MemoryChoices(const trainer::TrainSettings& settings, int64_t data_ranks);

// Of a step's arithmetic, what recomputation adds: all layers but the last run forward twice, the
// head does not.
double RecomputedShare(const model::ModelConfig& config, int64_t tokens,
                       const trainer::AttentionWork& attention);

// The change that fits in `limit` bytes: without recomputation if there is one, and the largest
// micro-batch; "" when none does.
std::string ChoiceThatFits(const std::vector<MemoryChoice>& choices, int64_t limit);

// Lines of text for people. `limit`: bytes of the device, 0 if unknown; `added`: RecomputedShare.
std::vector<std::string> DescribeChoices(const trainer::TrainSettings& settings,
                                         const std::vector<MemoryChoice>& choices, int64_t limit,
                                         double added);

}  // namespace sepia::tools
