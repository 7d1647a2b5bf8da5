// Which queries of which head make up a task of Sep-Attention, and in which order tasks are handed
// out.
//
// A head is cut into segments of about equal cost, and costly tasks go first. Costs come from the
// rule alone (visible pairs and rows), never from a clock, so that a cut depends on nothing but its
// arguments. Where a cut decides the order of sums, the number of threads must not be among them.
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

class AttentionSchedule {
 public:
  // Every head cut into `num_segments`, of which some may be empty.
  AttentionSchedule(const AttentionWork& work, int64_t num_segments);

  // For tasks that write nothing in common: heads are cut only as far as it takes to keep
  // `num_threads` threads evenly busy, costly ones into more segments, at most `max_segments`.
  static AttentionSchedule ForThreads(const AttentionWork& work, int num_threads,
                                      int64_t max_segments);

  int64_t num_segments() const { return num_segments_; }
  int64_t num_tasks() const { return static_cast<int64_t>(order_.size()) * work_.num_heads; }
  // Queries of segment `segment` in row `row` of the batch.
  int64_t Begin(int64_t row, int64_t segment) const { return begin_[At(row, segment)]; }
  int64_t End(int64_t row, int64_t segment) const {
    return segment + 1 == num_segments_ ? work_.seq_length : Begin(row, segment + 1);
  }

  // Task number `task` in the order in which they are handed out.
  struct Task {
    int64_t row, head, segment;
  };
  Task operator[](int64_t task) const {
    const int64_t part = order_[static_cast<size_t>(task / work_.num_heads)];
    return {part / num_segments_, task % work_.num_heads, part % num_segments_};
  }

  // In pairs of a query and a key; a row that is read, packed or written counts as some of them.
  int64_t Cost(int64_t row, int64_t segment) const { return cost_[At(row, segment)]; }
  int64_t TotalCost() const;
  // Cost of the busiest thread when each takes the next task as soon as it is free.
  int64_t BusiestThread(int num_threads) const;

 private:
  size_t At(int64_t row, int64_t segment) const {
    return static_cast<size_t>(row * num_segments_ + segment);
  }
  AttentionSchedule(const AttentionWork& work, const std::vector<int64_t>& segments_of_row);
  void CutRow(int64_t row, int64_t num_segments);
  int64_t PairsOfQuery(int64_t row, int64_t query) const;

  AttentionWork work_;
  int64_t num_segments_;
  std::vector<int64_t> begin_;  // [B, num_segments]
  std::vector<int64_t> cost_;   // [B, num_segments]
  std::vector<int64_t> order_;  // parts row * num_segments + segment, the costliest first
};

}  // namespace sepia::kernels::cpu
