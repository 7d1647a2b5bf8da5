// What holds for every implementation of Sep-Attention, whatever its trial class: a problem that is
// computed by Compute() and compared bit for bit by ExpectSame().
#pragma once

#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

#include "base/attention_index.h"

namespace sepia::kernels::testing {

template <typename Trial>
void ExpectWindowThatCoversAllIsDense() {
  Trial dense({.seq_length = 150, .kind = AttentionKind::kFull});
  dense.Compute();
  for (const int64_t window : {int64_t{150}, int64_t{151}, std::numeric_limits<int64_t>::max()}) {
    Trial wide({.seq_length = 150, .window = window});
    wide.Compute();
    wide.ExpectSame(dense);
  }
}

// The dense answer by the packed route: an independent order of the same sums.
template <typename Trial>
void ExpectAllSeparatorsIsDense() {
  Trial packed({.seq_length = 301, .window = 1, .density = {1.0}});
  packed.Compute();
  EXPECT_EQ(packed.problem().VisiblePairs(), 301 * 302 / 2);
  packed.ExpectMatchesOracle();
}

template <typename Trial>
void ExpectNoSeparatorsIsStreaming() {
  Trial sep({.seq_length = 150, .density = {0.0}});
  Trial streaming({.seq_length = 150, .kind = AttentionKind::kStreaming});
  sep.Compute();
  streaming.Compute();
  sep.ExpectSame(streaming);
}

}  // namespace sepia::kernels::testing
