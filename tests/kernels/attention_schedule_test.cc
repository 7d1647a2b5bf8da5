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
  for (const AttentionSchedule::Task& task : schedule.tasks()) {
    *std::min_element(busy.begin(), busy.end()) += task.cost;
    total += task.cost;
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

// Backward, segments are those of the shape, whatever the threads.
TEST(AttentionScheduleTest, BackwardKeepsAnyNumberOfThreadsBusy) {
  const Case cases[] = {
      {"sparse, 2048", 12, 2048, 64, {0.16}},
      {"dense, 2048", 12, 2048, 2048, {0.16}},
      {"sparse, 8192", 12, 8192, 64, {0.16}},
      {"dense, 8192", 12, 8192, 8192, {0.16}},
      {"16 heads", 16, 2048, 64, {0.16}},
      {"few heads", 2, 32768, 64, {0.16}},
      {"four rows", 12, 8192, 64, {0.14, 0.16, 0.16, 0.2}},
      {"many heads", 32, 2048, 64, {0.16, 0.16, 0.16, 0.16}},
  };
  for (const int64_t granularity : {96, 128}) {
    for (const Case& c : cases) {
      Batch batch(c);
      batch.work.granularity = granularity;
      const int64_t max_segments = CeilDiv(c.seq_length, int64_t{384});  // as both drivers cut
      const auto whole = AttentionSchedule::Backward(batch.work, 1, max_segments);
      // So long that one sequence of 12 heads has all the segments that 64 threads need.
      const int most_threads = c.seq_length >= 12 * 384 ? 64 : 32;
      for (int num_threads = 1; num_threads <= most_threads; ++num_threads) {
        const auto schedule = AttentionSchedule::Backward(batch.work, num_threads, max_segments);
        EXPECT_LE(BusiestOverMean(schedule, num_threads), 1.25)
            << c.name << ", granularity " << granularity << ", " << num_threads << " threads";
        for (int64_t row = 0; row < batch.work.batch_size; ++row) {
          for (int64_t s = 0; s < schedule.num_segments(); ++s) {
            ASSERT_EQ(schedule.Begin(row, s), whole.Begin(row, s));
          }
        }
        EXPECT_EQ(static_cast<int64_t>(schedule.cut_heads().size()),
                  BackwardHeadsToCut(batch.work.batch_size, c.heads, num_threads));
      }
    }
  }
}

// A segment handed out by itself packs its far keys, and needs memory for sums: where whole heads
// are even, there is none.
TEST(AttentionScheduleTest, BackwardHeadsStayWholeWhereThatIsEvenEnough) {
  for (const int num_threads : {1, 2, 3, 4, 6, 12}) {
    EXPECT_EQ(BackwardHeadsToCut(1, 12, num_threads), 0) << num_threads;
  }
  EXPECT_EQ(BackwardHeadsToCut(1, 12, 5), 2);
  EXPECT_EQ(BackwardHeadsToCut(1, 12, 64), 12);
  EXPECT_EQ(BackwardHeadsToCut(4, 12, 6), 0);
  EXPECT_EQ(BackwardHeadsToCut(4, 12, 8), 8);
}

// Every head once, whole or segment by segment, and the costliest first.
TEST(AttentionScheduleTest, BackwardTasksAreAllQueriesOnce) {
  const Batch batch({"", 3, 2048, 64, {0.0, 0.9, 0.16, 0.3}});
  for (const int num_threads : {1, 2, 3, 5, 8, 64}) {
    const auto schedule = AttentionSchedule::Backward(batch.work, num_threads, 16);
    std::vector<int64_t> queries(static_cast<size_t>(batch.num_heads()), 0);
    int64_t last_cost = schedule.tasks().front().cost;
    for (const AttentionSchedule::Task& task : schedule.tasks()) {
      queries[static_cast<size_t>(task.row * 3 + task.head)] +=
          schedule.End(task.row, task.end_segment - 1) - schedule.Begin(task.row, task.segment);
      EXPECT_LE(task.cost, last_cost);
      last_cost = task.cost;
    }
    EXPECT_EQ(queries, std::vector<int64_t>(queries.size(), 2048)) << num_threads;
  }
  const auto schedule = AttentionSchedule::Backward(batch.work, 5, 16);
  EXPECT_EQ(schedule.cut_heads(), (std::vector<int64_t>{3, 4, 5, 9, 10})) << "costliest rows first";
}

// Cuts cover every query once, at multiples of the granularity, even where there is little to cut.
TEST(AttentionScheduleTest, SegmentsCoverAllQueries) {
  for (const int64_t seq_length : {1, 127, 128, 129, 1000, 2048}) {
    for (const int64_t num_segments : {1, 2, 5, 16}) {
      const Batch batch({"", 2, seq_length, 64, {0.1, 0.8}});
      const AttentionSchedule schedule(batch.work, num_segments);
      EXPECT_LE(static_cast<int64_t>(schedule.tasks().size()), 4 * num_segments);
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
