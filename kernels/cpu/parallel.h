// Loops over independent items on the threads of a Context. Results must not depend on which
// thread runs an item or in what order: each item writes its own outputs, and sums over items are
// made afterwards, in item order.
#pragma once

#include <cstdint>

#include <omp.h>

#include "base/integer.h"
#include "kernels/context.h"

namespace sepia::kernels::cpu {

// fn(item) for item in [0, count), handed out dynamically one by one.
template <typename Fn>
void ParallelFor(const Context& ctx, int64_t count, const Fn& fn) {
  if (ctx.num_threads <= 1 || count <= 1) {
    for (int64_t item = 0; item < count; ++item) fn(item);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(ctx.num_threads)
  for (int64_t item = 0; item < count; ++item) fn(item);
}

// fn(begin, end) over consecutive ranges of `grain` items: the cut depends on the shape alone.
template <typename Fn>
void ParallelForRange(const Context& ctx, int64_t count, int64_t grain, const Fn& fn) {
  const int64_t num_ranges = CeilDiv(count, grain);
  ParallelFor(ctx, num_ranges, [&](int64_t range) {
    const int64_t begin = range * grain;
    fn(begin, begin + grain < count ? begin + grain : count);
  });
}

// Number of the running thread inside ParallelFor, in [0, num_threads).
inline int ThreadIndex() { return omp_get_thread_num(); }

}  // namespace sepia::kernels::cpu
