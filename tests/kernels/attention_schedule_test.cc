// How Sep-Attention is shared out among threads: computed from costs, nothing is timed.
#include "kernels/cpu/attention_schedule.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/attention_segments.h"
#include "tests/kernels/op_test.h"

namespace sepia::kernels::cpu {
namespace {

using kernels::testing::SeparatorTokens;

constexpr int64_t kShortest = 256;
constexpr int64_t kGranularity = 128;

struct Case {
  const char* name;
  int64_t heads;
  int64_t seq_length;
  int64_t window;
  std::vector<double> density;  // of separators, one row of the batch each
};

// A batch with its index.
struct Batch {
  explicit Batch(const Case& c)
      : index(SeparatorTokens(static_cast<int64_t>(c.density.size()), c.seq_length, c.density),
              static_cast<int64_t>(c.density.size()), c.seq_length,
              {AttentionKind::kSep, 3, 0, {kernels::testing::kSeparator}}),
        work{.batch_size = index.batch_size(),
             .num_heads = c.heads,
             .seq_length = c.seq_length,
             .window = std::min(c.window, c.seq_length),
             .index = c.window >= c.seq_length ? nullptr : &index,
             .granularity = kGranularity} {}
  int64_t num_heads() const { return work.batch_size * work.num_heads; }

  AttentionIndex index;
  AttentionWork work;
};

// What OpenMP's dynamic schedule does with tasks that take as long as they cost.
double BusiestOverMean(const AttentionSchedule& schedule, int num_threads) {
  std::vector<int64_t> busy(static_cast<size_t>(num_threads), 0);
  int64_t total = 0;
  for (int64_t t = 0; t < schedule.num_tasks(); ++t) {
    const auto [row, head, segment] = schedule[t];
    const int64_t cost = schedule.Cost(row, segment);
    *std::min_element(busy.begin(), busy.end()) += cost;
    total += cost;
  }
  const int64_t busiest = *std::max_element(busy.begin(), busy.end());
  return static_cast<double>(busiest) * num_threads / static_cast<double>(total);
}

const Case kCases[] = {
    {"sparse", 12, 8192, 64, {0.16}},
    {"dense", 12, 8192, 8192, {0.16}},
    {"rows of different density", 4, 8192, 64, {0.0, 0.9, 0.05, 0.16, 0.0}},
    {"one costly row", 12, 8192, 64, {0.01, 0.01, 0.01, 1.0}},
    {"few heads", 2, 32768, 64, {0.16}},
};

TEST(AttentionScheduleTest, ForwardKeepsAnyNumberOfThreadsBusy) {
  for (const Case& c : kCases) {
    const Batch batch(c);
    for (int num_threads = 1; num_threads <= 64; ++num_threads) {
      const auto schedule =
          AttentionSchedule::ForThreads(batch.work, num_threads, CeilDiv(c.seq_length, kShortest));
      EXPECT_LE(BusiestOverMean(schedule, num_threads), 1.25)
          << c.name << ", " << num_threads << " threads";
    }
  }
}

// Backward, heads that are cut feed as many threads as there are tasks. (With more heads than
// kWantedAttentionTasks / 2 none is cut: a head is the unit then, as below.)
TEST(AttentionScheduleTest, BackwardKeepsSixteenThreadsBusyWhateverTheBatch) {
  for (const int64_t heads : {1, 2, 4, 8}) {
    for (const int64_t window : {64, 8192}) {
      const Batch batch({"", heads, 8192, window, {0.16}});
      const AttentionSchedule schedule(
          batch.work, BackwardSegments(batch.num_heads(), batch.work.seq_length, kShortest));
      EXPECT_EQ(schedule.num_tasks(), kWantedAttentionTasks);
      for (const int num_threads : {1, 2, 4, 8, 16}) {
        // Segments of 512 queries begin at multiples of 128.
        EXPECT_LE(BusiestOverMean(schedule, num_threads), 1.35)
            << heads << " heads, window " << window << ", " << num_threads << " threads";
      }
    }
  }
}

// Whole heads: the busiest thread is late by one of them at most, and the costliest go first.
TEST(AttentionScheduleTest, WholeHeadsAreHandedOutCostliestFirst) {
  const Batch batch({"", 12, 2048, 64, {0.0, 0.9, 0.16, 0.3}});
  const AttentionSchedule schedule(batch.work, 1);
  int64_t costliest = 0;
  for (int64_t t = 0; t < schedule.num_tasks(); ++t) {
    const int64_t cost = schedule.Cost(schedule[t].row, schedule[t].segment);
    costliest = std::max(costliest, cost);
    if (t > 0) {
      EXPECT_LE(cost, schedule.Cost(schedule[t - 1].row, schedule[t - 1].segment));
    }
  }
  const auto total = static_cast<double>(schedule.TotalCost());
  for (int num_threads = 1; num_threads <= 64; ++num_threads) {
    const double mean = total / num_threads;
    const double bound = 1 + static_cast<double>(costliest) / mean;
    EXPECT_LE(BusiestOverMean(schedule, num_threads), bound) << num_threads;
  }
}

// Cuts cover every query once, at multiples of the granularity, even where there is little to cut.
TEST(AttentionScheduleTest, SegmentsCoverAllQueries) {
  for (const int64_t seq_length : {1, 127, 128, 129, 1000, 2048}) {
    for (const int64_t num_segments : {1, 2, 5, 16}) {
      const Batch batch({"", 2, seq_length, 64, {0.1, 0.8}});
      const AttentionSchedule schedule(batch.work, num_segments);
      EXPECT_EQ(schedule.num_tasks(), 4 * num_segments);
      for (int64_t row = 0; row < 2; ++row) {
        EXPECT_EQ(schedule.Begin(row, 0), 0);
        EXPECT_EQ(schedule.End(row, num_segments - 1), seq_length);
        for (int64_t s = 0; s < num_segments; ++s) {
          EXPECT_LE(schedule.Begin(row, s), schedule.End(row, s));
          if (s > 0) {
            EXPECT_EQ(schedule.Begin(row, s), schedule.End(row, s - 1));
          }
          if (schedule.Begin(row, s) < seq_length) {
            EXPECT_EQ(schedule.Begin(row, s) % kGranularity, 0);
          }
        }
      }
    }
  }
}

// Two threads and twelve heads are even as they are: nothing is packed twice.
TEST(AttentionScheduleTest, HeadsStayWholeWhereThatIsEvenEnough) {
  const Batch batch({"", 12, 2048, 64, {0.16}});
  for (const int num_threads : {1, 2, 3, 4, 6, 12}) {
    EXPECT_EQ(AttentionSchedule::ForThreads(batch.work, num_threads, 8).num_segments(), 1)
        << num_threads;
  }
  EXPECT_GT(AttentionSchedule::ForThreads(batch.work, 8, 8).num_segments(), 1);
}

}  // namespace
}  // namespace sepia::kernels::cpu
