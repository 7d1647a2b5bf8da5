#include "kernels/cpu/attention_schedule.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>

#include "base/integer.h"

namespace sepia::kernels::cpu {
namespace {

// What packing a query or a far key costs (measured on AVX-512 with D = 64: about a tenth of the
// time at 236 pairs a query).
constexpr int64_t kPairsPerRow = 24;

// Tasks a thread, when heads are cut for balance: the last one to finish is late by half a task.
constexpr int64_t kTasksPerThread = 4;

// Backward, this many heads are more than enough tasks as they are; as many whole heads a thread
// leave it late by an eighth at most.
constexpr int64_t kManyHeads = 256;
constexpr int64_t kManyHeadsPerThread = 8;

std::vector<std::vector<int64_t>> EqualShares(const std::vector<int64_t>& segments_of_row) {
  std::vector<std::vector<int64_t>> shares;
  for (const int64_t segments : segments_of_row) {
    shares.emplace_back(static_cast<size_t>(segments), int64_t{1});
  }
  return shares;
}

}  // namespace

BackwardCut BackwardCut::For(int64_t num_heads, int64_t max_segments) {
  if (num_heads == 0 || num_heads >= kManyHeads) return {0, 1};
  const int64_t wanted = std::max<int64_t>(2, CeilDiv(kMaxBackwardSegments, num_heads));
  const int64_t segments = std::clamp<int64_t>(max_segments, 1, wanted);
  const int64_t large = CeilDiv(segments, int64_t{3});
  return {segments - large, large};
}

int64_t BackwardHeadsToCut(int64_t batch_size, int64_t num_heads, int num_threads) {
  const int64_t threads = std::max(1, num_threads);
  const int64_t heads = batch_size * num_heads;
  if (heads >= kManyHeadsPerThread * threads) return 0;
  // Heads of one sequence cost the same.
  return batch_size == 1 ? heads % threads : std::min(heads, threads);
}

AttentionSchedule::AttentionSchedule(const AttentionWork& work, int64_t num_segments)
    : AttentionSchedule(work, EqualShares(std::vector<int64_t>(static_cast<size_t>(work.batch_size),
                                                               num_segments))) {
  for (int64_t row = 0; row < work.batch_size; ++row) {
    for (int64_t head = 0; head < work.num_heads; ++head) AddTaskPerSegment(row, head);
  }
  SortTasks();
}

AttentionSchedule::AttentionSchedule(const AttentionWork& work,
                                     const std::vector<std::vector<int64_t>>& shares)
    : work_(work), num_segments_(1) {
  for (const auto& row : shares) {
    num_segments_ = std::max(num_segments_, static_cast<int64_t>(row.size()));
  }
  begin_.resize(static_cast<size_t>(work.batch_size * num_segments_));
  cost_.resize(begin_.size());
  for (int64_t row = 0; row < work.batch_size; ++row) {
    CutRow(row, shares[static_cast<size_t>(row)]);
  }
}

AttentionSchedule AttentionSchedule::ForThreads(const AttentionWork& work, int num_threads,
                                                int64_t max_segments) {
  AttentionSchedule whole(work, 1);
  const int64_t total = whole.TotalCost();
  // A cut costs packing the far keys once more: not for the last tenth.
  if (10 * num_threads * whole.BusiestThread(num_threads) <= 11 * total) return whole;
  std::vector<int64_t> segments_of_row;
  for (int64_t row = 0; row < work.batch_size; ++row) {
    const int64_t wanted = CeilDiv(kTasksPerThread * num_threads * whole.CostOf(row, 0, 1), total);
    segments_of_row.push_back(std::min(wanted, max_segments));
  }
  AttentionSchedule cut(work, EqualShares(segments_of_row));
  for (int64_t row = 0; row < work.batch_size; ++row) {
    for (int64_t head = 0; head < work.num_heads; ++head) cut.AddTaskPerSegment(row, head);
  }
  cut.SortTasks();
  return cut;
}

AttentionSchedule AttentionSchedule::Backward(const AttentionWork& work, int num_threads,
                                              int64_t max_segments) {
  const auto heads = work.batch_size * work.num_heads;
  const auto cut = BackwardCut::For(heads, max_segments);
  std::vector<int64_t> shares(static_cast<size_t>(cut.num_segments()), BackwardCut::kLargeShare);
  std::fill_n(shares.begin(), cut.num_small, int64_t{1});
  AttentionSchedule schedule(
      work, std::vector<std::vector<int64_t>>(static_cast<size_t>(work.batch_size), shares));
  const int64_t segments = schedule.num_segments_;
  int64_t to_cut =
      segments == 1 ? 0 : BackwardHeadsToCut(work.batch_size, work.num_heads, num_threads);
  std::vector<int64_t> rows(static_cast<size_t>(work.batch_size));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  std::sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
    const int64_t cost_a = schedule.CostOf(a, 0, segments);
    const int64_t cost_b = schedule.CostOf(b, 0, segments);
    return cost_a != cost_b ? cost_a > cost_b : a < b;
  });
  for (const int64_t row : rows) {
    for (int64_t head = 0; head < work.num_heads; ++head) {
      if (to_cut-- > 0) {
        schedule.AddTaskPerSegment(row, head);
        schedule.cut_heads_.push_back(row * work.num_heads + head);
      } else {
        schedule.AddTask(row, head, 0, segments);
      }
    }
  }
  schedule.SortTasks();
  return schedule;
}

void AttentionSchedule::AddTask(int64_t row, int64_t head, int64_t segment, int64_t end_segment) {
  if (Begin(row, segment) == End(row, end_segment - 1)) return;
  tasks_.push_back({row, head, segment, end_segment, CostOf(row, segment, end_segment)});
}

void AttentionSchedule::AddTaskPerSegment(int64_t row, int64_t head) {
  for (int64_t s = 0; s < num_segments_; ++s) AddTask(row, head, s, s + 1);
}

void AttentionSchedule::SortTasks() {
  // Late segments first among equals: they are the ones that packed keys make longer.
  const auto key = [](const Task& t) {
    return std::make_tuple(-t.cost, -t.row, -t.segment, t.head);
  };
  std::sort(tasks_.begin(), tasks_.end(),
            [&](const Task& a, const Task& b) { return key(a) < key(b); });
}

int64_t AttentionSchedule::PairsOfQuery(int64_t row, int64_t query) const {
  const int64_t band = std::min(work_.window, query + 1);
  if (work_.index == nullptr || query < work_.window) return band;
  return band + work_.index->count(row)[static_cast<size_t>(query - work_.window)];
}

// A segment begins where the cost before it comes nearest to its share.
void AttentionSchedule::CutRow(int64_t row, const std::vector<int64_t>& shares) {
  const int64_t seq_length = work_.seq_length;
  const auto block_cost = [&](int64_t begin) {
    const int64_t end = std::min(begin + work_.granularity, seq_length);
    int64_t cost = (end - begin) * kPairsPerRow;
    for (int64_t i = begin; i < end; ++i) cost += PairsOfQuery(row, i);
    return cost;
  };
  int64_t total = 0;
  for (int64_t at = 0; at < seq_length; at += work_.granularity) total += block_cost(at);
  const auto num_segments = static_cast<int64_t>(shares.size());
  const int64_t all_shares = std::accumulate(shares.begin(), shares.end(), int64_t{0});
  int64_t shares_before = shares[0];  // of the next segment
  int64_t before = 0;
  int64_t segment = 0;
  begin_[At(row, segment)] = 0;
  for (int64_t at = 0; at < seq_length; at += work_.granularity) {
    const int64_t cost = block_cost(at);
    while (segment + 1 < num_segments &&
           (2 * before + cost) * all_shares >= 2 * total * shares_before) {
      begin_[At(row, ++segment)] = at;
      shares_before += shares[static_cast<size_t>(segment)];
    }
    before += cost;
    cost_[At(row, segment)] += cost;
  }
  while (segment + 1 < num_segments_) begin_[At(row, ++segment)] = seq_length;
}

int64_t AttentionSchedule::CostOf(int64_t row, int64_t segment, int64_t end_segment) const {
  int64_t cost = 0;
  for (int64_t s = segment; s < end_segment; ++s) cost += cost_[At(row, s)];
  const int64_t far = End(row, end_segment - 1) - 1 - work_.window;
  if (work_.index == nullptr || far < 0 || cost == 0) return cost;
  return cost + work_.index->count(row)[static_cast<size_t>(far)] * kPairsPerRow;
}

int64_t AttentionSchedule::TotalCost() const {
  int64_t total = 0;
  for (const Task& task : tasks_) total += task.cost;
  return total;
}

int64_t AttentionSchedule::BusiestThread(int num_threads) const {
  // A heap with the least busy thread on top.
  std::vector<int64_t> busy(static_cast<size_t>(std::max(1, num_threads)), 0);
  for (const Task& task : tasks_) {
    std::pop_heap(busy.begin(), busy.end(), std::greater<>());
    busy.back() += task.cost;
    std::push_heap(busy.begin(), busy.end(), std::greater<>());
  }
  return *std::max_element(busy.begin(), busy.end());
}

}  // namespace sepia::kernels::cpu
