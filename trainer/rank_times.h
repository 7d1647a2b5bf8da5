// Which rank holds up the others: every rank's own time of each step, without waiting for the rest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dist/communicator.h"
#include "kernels/context.h"

namespace sepia::trainer {

class RankTimes {
 public:
  // A rank is slow when its own time is this much longer than the median rank's.
  static constexpr double kSlowFactor = 1.5;

  // `world` must outlive this.
  explicit RankTimes(dist::Communicator& world);

  // One step of this rank, in milliseconds: all of it, and what of it went to waiting for data and
  // for other ranks. Returns every rank's step without waiting for others; empty in a world of one.
  // Collective.
  std::vector<double> Share(kernels::Context& ctx, double step_ms, double data_ms, double comm_ms);

  // Of the steps since the last report: a sentence when a rank is slow, else empty. The same on all
  // ranks.
  std::string Report();

 private:
  struct Sums {
    double own = 0, data = 0, comm = 0;
  };

  dist::Communicator& world_;
  std::vector<std::string> nodes_;
  std::vector<Sums> sums_;  // by rank
  int64_t steps_ = 0;
};

// The middle value; of an even number of them the lower one in the middle.
double LowerMedian(std::vector<double> values);

}  // namespace sepia::trainer
