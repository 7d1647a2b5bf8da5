// What holds for every implementation of Sep-Attention, whatever its trial class: a problem that is
// computed by Compute() and compared bit for bit by ExpectSame().
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/attention_index.h"
#include "base/philox.h"
#include "tests/kernels/op_test.h"

namespace sepia::kernels::testing {

// One NaN among the inputs: in q, k or v (part 0, 1, 2) or in dout (part 3) of a position of head
// 0.
struct Poison {
  int64_t part = 0;
  int64_t position = -1;  // none
};

// Sets it; qkv is [B, T, H, 3, D] and dout [B, T, H, D].
inline void SetPoison(const Poison& poison, const TensorView& qkv, const TensorView& dout) {
  if (poison.position < 0) return;
  const int64_t num_heads = qkv.dim(2);
  const int64_t head_dim = qkv.dim(4);
  const int64_t element = head_dim / 2;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (poison.part == 3) {
    Set(dout, poison.position * num_heads * head_dim + element, nan);
  } else {
    Set(qkv, (poison.position * num_heads * 3 + poison.part) * head_dim + element, nan);
  }
}

// NaN spreads along visible pairs, as in the oracle, and no further: whatever is hidden is not
// computed as 0 * NaN.
template <typename Trial, typename Case>
void ExpectNaNStaysAmongVisiblePairs(Case c) {
  for (const int64_t position :
       {int64_t{0}, int64_t{1}, int64_t{37}, int64_t{70}, int64_t{101}, c.seq_length - 1}) {
    for (const int64_t part : {0, 1, 2, 3}) {
      c.poison = {part, position};
      SCOPED_TRACE(fmt::format("NaN in part {} of position {}", part, position));
      Trial trial(c);
      trial.Compute();
      trial.ExpectMatchesOracle();
    }
  }
}

// Number `number` of an endless row of shapes. Edges of tiles, panels, groups and segments meet in
// more ways than anybody lists: windows lie next to multiples of 16 as often as anywhere.
template <typename Case>
Case RandomShape(uint64_t number) {
  const PhiloxStream stream(number, "attention shape");
  uint64_t drawn = 0;
  const auto below = [&](int64_t bound) {
    return static_cast<int64_t>(stream.Bits(drawn++) % static_cast<uint64_t>(bound));
  };
  const int64_t most[] = {40, 200, 600, 1300};
  Case c;
  c.seq_length = 1 + below(most[below(std::ssize(most))]);
  c.window = 1 + below(c.seq_length + 1);
  if (below(2) == 0) c.window = std::max<int64_t>(1, 16 * below(13) - 1 + below(3));
  c.num_initial = static_cast<int32_t>(below(2) == 0 ? 3 : below(50));
  c.density = {static_cast<double>(below(11)) / 10 * static_cast<double>(below(11)) / 10};
  c.num_heads = below(4) == 0 ? 1 + below(12) : 1 + below(2);
  c.head_dim = 8 * (1 + below(3));
  c.num_threads = 1 + static_cast<int>(below(5));
  return c;
}

template <typename Trial, typename Case>
void ExpectRandomShapesMatchTheOracle() {
  constexpr uint64_t kShapes = 60;
  for (uint64_t number = 0; number < kShapes; ++number) {
    SCOPED_TRACE(number);
    Trial trial(RandomShape<Case>(number));
    trial.Compute();
    trial.ExpectMatchesOracle();
    if (::testing::Test::HasFailure()) return;
  }
}

template <typename Trial, typename Case>
void ExpectSameBitsForAnyNumberOfThreads(const std::vector<Case>& cases) {
  for (Case c : cases) {
    c.num_threads = 1;
    Trial one(c);
    one.Compute();
    for (const int num_threads : {2, 3, 5, 8}) {
      c.num_threads = num_threads;
      Trial many(c);
      many.Compute();
      many.ExpectSame(one);
    }
  }
}

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
