// Which queries of which head make up a task of Sep-Attention, and in which order tasks are handed
// out.
//
// A head is cut into segments of queries, and costly tasks go first. Costs come from the rule alone
// (visible pairs and rows), never from a clock, so that a cut depends on nothing but its arguments.
// Where a cut decides the order of sums (backward), the number of threads is not among them: it
// says only which segments one thread computes in a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/attention_index.h"

namespace sepia::kernels::cpu {

// The work of one call.
struct AttentionWork {
  int64_t batch_size, num_heads, seq_length;
  int64_t window;               // 1 ... T
  const AttentionIndex* index;  // or null
  int64_t granularity;          // segments begin at multiples of it
};

// Backward, key gradients are sums over queries: every segment has sums of its own, which are added
// in the order of segments. So the segments of a head follow from the shape: about 144 of all heads
// together, which keep up to 64 threads evenly busy, or fewer where they would be so short that
// their sums weigh against their products. Small ones first, where few far keys have sums to add
// yet, then large ones.
inline constexpr int64_t kMaxBackwardSegments = 144;
struct BackwardCut {
  int64_t num_small, num_large;
  static constexpr int64_t kLargeShare = 3;  // cost of a large one over that of a small one

  // `num_heads` of the whole batch; at most `max_segments` of a head.
  static BackwardCut For(int64_t num_heads, int64_t max_segments);
  int64_t num_segments() const { return num_small + num_large; }
};

// How many heads are handed out segment by segment rather than whole: as many as it takes to even
// out what whole heads leave, at most one a thread. By the shape alone, because such a segment's
// sums need memory.
int64_t BackwardHeadsToCut(int64_t batch_size, int64_t num_heads, int num_threads);

class AttentionSchedule {
 public:
  // Segments [segment, end_segment) of a head of row `row` of the batch, at least one query.
  struct Task {
    int64_t row, head;
    int64_t segment, end_segment;
    int64_t cost;  // in pairs of a query and a key; a row that is read or written counts as some
  };

  // Every head is cut into `num_segments` of about equal cost, of which some may be empty, and each
  // segment is a task.
  AttentionSchedule(const AttentionWork& work, int64_t num_segments);

  // For tasks that write nothing in common: heads are cut only as far as it takes to keep
  // `num_threads` threads evenly busy, costly ones into more segments, at most `max_segments`.
  static AttentionSchedule ForThreads(const AttentionWork& work, int num_threads,
                                      int64_t max_segments);

  // Segments of BackwardCut; the costliest BackwardHeadsToCut heads are handed out segment by
  // segment, the others whole.
  static AttentionSchedule Backward(const AttentionWork& work, int num_threads,
                                    int64_t max_segments);

  int64_t num_segments() const { return num_segments_; }
  // Queries of segment `segment` in row `row` of the batch.
  int64_t Begin(int64_t row, int64_t segment) const { return begin_[At(row, segment)]; }
  int64_t End(int64_t row, int64_t segment) const {
    return segment + 1 == num_segments_ ? work_.seq_length : Begin(row, segment + 1);
  }

  // In the order in which they are handed out.
  const std::vector<Task>& tasks() const { return tasks_; }
  int64_t TotalCost() const;
  // Cost of the busiest thread when each takes the next task as soon as it is free.
  int64_t BusiestThread(int num_threads) const;

  // Heads row * num_heads + head that are handed out segment by segment, where others are whole.
  const std::vector<int64_t>& cut_heads() const { return cut_heads_; }

 private:
  // The shares of each row's segments.
  AttentionSchedule(const AttentionWork& work, const std::vector<std::vector<int64_t>>& shares);
  size_t At(int64_t row, int64_t segment) const {
    return static_cast<size_t>(row * num_segments_ + segment);
  }
  // Cuts a row into segments whose costs are about as `shares`; further ones are empty.
  void CutRow(int64_t row, const std::vector<int64_t>& shares);
  int64_t PairsOfQuery(int64_t row, int64_t query) const;
  int64_t CostOf(int64_t row, int64_t segment, int64_t end_segment) const;
  void AddTask(int64_t row, int64_t head, int64_t segment, int64_t end_segment);
  void AddTaskPerSegment(int64_t row, int64_t head);
  void SortTasks();

  AttentionWork work_;
  int64_t num_segments_;
  std::vector<int64_t> begin_;  // [B, num_segments]
  std::vector<int64_t> cost_;   // [B, num_segments], without packing far keys
  std::vector<Task> tasks_;
  std::vector<int64_t> cut_heads_;
};

}  // namespace sepia::kernels::cpu
