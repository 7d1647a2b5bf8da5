// One collective on one size: what `bench allreduce` and its like, `doctor` and `plan` measure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "dist/communicator.h"
#include "trainer/step_traffic.h"

namespace sepia::tools {

// "allreduce", "reduce_scatter", "all_gather".
const char* CollectiveName(trainer::CollectiveKind kind);

// Sizes are those of nccl-tests: of the whole tensor, which an all-reduce holds on every rank, a
// reduce-scatter reads and an all-gather writes.
class CollectiveWorkload {
 public:
  // About `bytes`: rounded up to whole elements on every rank of `group`, which must outlive this.
  CollectiveWorkload(dist::Communicator& group, trainer::CollectiveKind kind, int64_t bytes,
                     DType dtype);

  int64_t bytes() const { return whole_.view().num_bytes(); }

  // Runs once on known values and compares every element and the bytes sent; throws on all ranks
  // when something differs.
  void Verify();

  // Seconds of one call, `repeats` times: each value is that of the slowest rank of `world`, whose
  // groups all run at the same time. Short calls are timed as the mean of several in a row.
  std::vector<double> Measure(dist::Communicator& world, int repeats);

  // Busbw of nccl-tests over algbw: what a rank must send and receive at least, over the size.
  double BusFactor() const;

 private:
  void Run();
  double SecondsOf(int calls);

  dist::Communicator& group_;
  const trainer::CollectiveKind kind_;
  OwnedTensor whole_;
  OwnedTensor part_;  // what a reduce-scatter gives or an all-gather takes; else empty
};

}  // namespace sepia::tools
