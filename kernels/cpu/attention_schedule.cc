#include "kernels/cpu/attention_schedule.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/integer.h"

namespace sepia::kernels::cpu {
namespace {

// What packing a query or a far key costs (measured on AVX-512 with D = 64: about a tenth of the
// time at 236 pairs a query).
constexpr int64_t kPairsPerRow = 24;

// Tasks a thread, when heads are cut for balance: the last one to finish is late by half a task.
constexpr int64_t kTasksPerThread = 4;

}  // namespace

AttentionSchedule::AttentionSchedule(const AttentionWork& work, int64_t num_segments)
    : AttentionSchedule(work,
                        std::vector<int64_t>(static_cast<size_t>(work.batch_size), num_segments)) {}

AttentionSchedule::AttentionSchedule(const AttentionWork& work,
                                     const std::vector<int64_t>& segments_of_row)
    : work_(work),
      num_segments_(*std::max_element(segments_of_row.begin(), segments_of_row.end())) {
  const auto parts = static_cast<size_t>(work.batch_size * num_segments_);
  begin_.resize(parts);
  cost_.resize(parts);
  order_.resize(parts);
  for (int64_t row = 0; row < work.batch_size; ++row) {
    CutRow(row, segments_of_row[static_cast<size_t>(row)]);
  }
  std::iota(order_.begin(), order_.end(), int64_t{0});
  // Late segments first among equals: they are the ones that packed keys make longer.
  std::sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
    const int64_t cost_a = cost_[static_cast<size_t>(a)];
    const int64_t cost_b = cost_[static_cast<size_t>(b)];
    return cost_a != cost_b ? cost_a > cost_b : a > b;
  });
}

AttentionSchedule AttentionSchedule::ForThreads(const AttentionWork& work, int num_threads,
                                                int64_t max_segments) {
  AttentionSchedule whole(work, 1);
  const int64_t total = whole.TotalCost();
  // A cut costs packing the far keys once more: not for the last tenth.
  if (10 * num_threads * whole.BusiestThread(num_threads) <= 11 * total) return whole;
  std::vector<int64_t> segments_of_row;
  for (int64_t row = 0; row < work.batch_size; ++row) {
    const int64_t wanted = CeilDiv(kTasksPerThread * num_threads * whole.Cost(row, 0), total);
    segments_of_row.push_back(std::min(wanted, max_segments));
  }
  return {work, segments_of_row};
}

int64_t AttentionSchedule::PairsOfQuery(int64_t row, int64_t query) const {
  const int64_t band = std::min(work_.window, query + 1);
  if (work_.index == nullptr || query < work_.window) return band;
  return band + work_.index->count(row)[static_cast<size_t>(query - work_.window)];
}

// A segment begins where the cost before it comes nearest to its share.
void AttentionSchedule::CutRow(int64_t row, int64_t num_segments) {
  const int64_t seq_length = work_.seq_length;
  const auto block_cost = [&](int64_t begin) {
    const int64_t end = std::min(begin + work_.granularity, seq_length);
    int64_t cost = (end - begin) * kPairsPerRow;
    for (int64_t i = begin; i < end; ++i) cost += PairsOfQuery(row, i);
    return cost;
  };
  int64_t total = 0;
  for (int64_t at = 0; at < seq_length; at += work_.granularity) total += block_cost(at);
  int64_t before = 0;
  int64_t segment = 0;
  begin_[At(row, segment)] = 0;
  for (int64_t at = 0; at < seq_length; at += work_.granularity) {
    const int64_t cost = block_cost(at);
    while (segment + 1 < num_segments &&
           (2 * before + cost) * num_segments >= 2 * total * (segment + 1)) {
      begin_[At(row, ++segment)] = at;
    }
    before += cost;
    cost_[At(row, segment)] += cost;
  }
  while (segment + 1 < num_segments_) begin_[At(row, ++segment)] = seq_length;
  for (int64_t s = 0; s < num_segments_; ++s) {
    const int64_t far = End(row, s) - 1 - work_.window;
    if (work_.index == nullptr || far < 0 || Begin(row, s) == End(row, s)) continue;
    cost_[At(row, s)] += work_.index->count(row)[static_cast<size_t>(far)] * kPairsPerRow;
  }
}

int64_t AttentionSchedule::TotalCost() const {
  return work_.num_heads * std::accumulate(cost_.begin(), cost_.end(), int64_t{0});
}

int64_t AttentionSchedule::BusiestThread(int num_threads) const {
  // A heap with the least busy thread on top.
  std::vector<int64_t> busy(static_cast<size_t>(std::max(1, num_threads)), 0);
  for (int64_t t = 0; t < num_tasks(); ++t) {
    const Task task = (*this)[t];
    std::pop_heap(busy.begin(), busy.end(), std::greater<>());
    busy.back() += Cost(task.row, task.segment);
    std::push_heap(busy.begin(), busy.end(), std::greater<>());
  }
  return *std::max_element(busy.begin(), busy.end());
}

}  // namespace sepia::kernels::cpu
