// What the drivers of Sep-Attention share, whatever code computes a task: how heads (b, h) are cut
// into segments of queries, a workspace per thread, partial gradients of keys per segment.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/attention_index.h"
#include "base/integer.h"
#include "base/tensor.h"
#include "kernels/context.h"
#include "kernels/cpu/attention_schedule.h"
#include "kernels/cpu/parallel.h"
#include "kernels/sep_attention.h"

namespace sepia::kernels::cpu {

// Where sums run over several queries (backward), heads are cut until there are about this many
// tasks, so that a small batch still feeds several threads. By the shape alone: the cut decides the
// order of sums, and every segment has partial sums of its own.
inline constexpr int64_t kWantedAttentionTasks = 16;

inline int64_t BackwardSegments(int64_t num_heads, int64_t seq_length, int64_t shortest) {
  const int64_t wanted =
      std::max<int64_t>(1, kWantedAttentionTasks / std::max<int64_t>(1, num_heads));
  return std::min(wanted, CeilDiv(seq_length, shortest));
}

// How a driver cuts heads.
struct AttentionCut {
  int64_t granularity;  // segments begin at multiples of it
  int64_t shortest;     // queries of a segment on average, at least
};

// Heads of qkv [B, T, H, 3, D], each cut into segments of queries. Offsets and strides count
// elements of tensors [B, T, H, parts, D].
class AttentionSegments {
 public:
  enum class Pass { kForward, kBackward };

  AttentionSegments(const Context& ctx, Pass pass, ConstTensorView qkv, const AttentionIndex* index,
                    int64_t window, const AttentionCut& cut)
      : qkv_(qkv),
        index_(index),
        window_(std::min(window, qkv.dim(1))),
        schedule_(ScheduleOf(ctx, pass, cut)) {}

  int64_t num_heads() const { return qkv_.dim(0) * qkv_.dim(2); }
  int64_t num_segments() const { return schedule_.num_segments(); }
  int64_t num_tasks() const { return schedule_.num_tasks(); }
  int64_t seq_length() const { return qkv_.dim(1); }
  int64_t head_dim() const { return qkv_.dim(4); }
  int64_t window() const { return window_; }  // at most T

  int64_t RowStride(int64_t parts) const { return qkv_.dim(2) * parts * head_dim(); }
  // Of row 0 of the head's sequence.
  int64_t HeadOffset(int64_t head, int64_t parts) const {
    return row_of(head) * seq_length() * RowStride(parts) + head % qkv_.dim(2) * parts * head_dim();
  }

  // The head's packed keys (base/attention_index.h), or null.
  struct PackedKeys {
    const int32_t* positions = nullptr;
    const int32_t* count = nullptr;
    const int32_t* inverse = nullptr;
  };
  PackedKeys PackedKeysOf(int64_t head) const {
    if (index_ == nullptr || index_->max_packed() == 0) return {};
    const int64_t row = row_of(head);
    return {index_->positions(row).data(), index_->count(row).data(), index_->inverse(row).data()};
  }

  int64_t Begin(int64_t head, int64_t segment) const {
    return schedule_.Begin(row_of(head), segment);
  }
  int64_t End(int64_t head, int64_t segment) const { return schedule_.End(row_of(head), segment); }
  // Packed keys that some query of the segment sees: those of its last query.
  int64_t NumPacked(int64_t head, int64_t segment) const {
    const int64_t last_far = End(head, segment) - 1 - window_;
    if (index_ == nullptr || last_far < 0) return 0;
    return index_->count(row_of(head))[static_cast<size_t>(last_far)];
  }

  // fn(head, segment) for every task, costly ones first.
  template <typename Fn>
  void ForEachTask(const Context& ctx, const Fn& fn) const {
    ParallelFor(ctx, num_tasks(), [&](int64_t number) {
      const AttentionSchedule::Task task = schedule_[number];
      const int64_t head = task.row * qkv_.dim(2) + task.head;
      if (Begin(head, task.segment) < End(head, task.segment)) fn(head, task.segment);
    });
  }

  // fn(segment) for the segments of a head that have queries, in order.
  template <typename Fn>
  void ForEachSegment(int64_t head, const Fn& fn) const {
    for (int64_t s = 0; s < num_segments(); ++s) {
      if (Begin(head, s) < End(head, s)) fn(s);
    }
  }

  // fn(head, begin, end) for blocks of keys.
  template <typename Fn>
  void ForEachKeyBlock(const Context& ctx, const Fn& fn) const {
    constexpr int64_t kKeys = 256;
    const int64_t blocks = CeilDiv(seq_length(), kKeys);
    ParallelFor(ctx, num_heads() * blocks, [&](int64_t item) {
      const int64_t begin = item % blocks * kKeys;
      fn(item / blocks, begin, std::min(begin + kKeys, seq_length()));
    });
  }

 private:
  int64_t row_of(int64_t head) const { return head / qkv_.dim(2); }

  AttentionSchedule ScheduleOf(const Context& ctx, Pass pass, const AttentionCut& cut) const {
    const AttentionWork work = {.batch_size = qkv_.dim(0),
                                .num_heads = qkv_.dim(2),
                                .seq_length = seq_length(),
                                .window = window_,
                                .index = index_,
                                .granularity = cut.granularity};
    if (pass == Pass::kForward) {
      return AttentionSchedule::ForThreads(work, ctx.num_threads,
                                           CeilDiv(seq_length(), cut.shortest));
    }
    return {work, BackwardSegments(num_heads(), seq_length(), cut.shortest)};
  }

  ConstTensorView qkv_;
  const AttentionIndex* index_;
  int64_t window_;
  AttentionSchedule schedule_;
};

// One workspace a thread, 64-byte aligned.
class AttentionWorkspaces {
 public:
  AttentionWorkspaces(const Context& ctx, ScratchScope& scratch, int64_t num_bytes)
      : memory_(scratch.Allocate("sep_attention.workspace", DType::kUInt8,
                                 {std::max(1, ctx.num_threads), RoundUp(num_bytes, 256)})) {}
  std::byte* OfThisThread() const {
    return static_cast<std::byte*>(memory_.raw()) + ThreadIndex() * memory_.dim(1);
  }

 private:
  TensorView memory_;
};

// Partial key gradients of every (head, segment), fp32 [T, padded_dim] each; none when heads are
// not cut. Partials is {float* dk, float* dv}.
template <typename Partials>
class AttentionPartialGradients {
 public:
  AttentionPartialGradients(const AttentionSegments& segments, int64_t padded_dim,
                            ScratchScope& scratch)
      : num_segments_(segments.num_segments()), size_(segments.seq_length() * padded_dim) {
    if (num_segments_ == 1) return;
    memory_ = scratch.Allocate("sep_attention.partials", DType::kFloat32,
                               {segments.num_tasks(), 2, size_});
  }
  Partials Of(int64_t head, int64_t segment) const {
    if (num_segments_ == 1) return {nullptr, nullptr};
    float* dk = memory_.data<float>() + (head * num_segments_ + segment) * 2 * size_;
    return {dk, dk + size_};
  }

 private:
  int64_t num_segments_;
  int64_t size_;
  TensorView memory_;
};

// Scratch that workspaces of `workspace_bytes` and partial gradients take for this shape.
inline int64_t AttentionScratchBytes(const SepAttentionShape& shape, int64_t shortest,
                                     int64_t workspace_bytes, int64_t padded_dim) {
  constexpr int64_t kAlignment = 256;
  const int64_t num_heads = shape.batch_size * shape.num_heads;
  if (num_heads == 0 || shape.seq_length == 0) return 0;
  const int64_t segments = BackwardSegments(num_heads, shape.seq_length, shortest);
  const int64_t partials =
      segments == 1 ? 0 : num_heads * segments * 2 * shape.seq_length * padded_dim;
  return std::max(1, shape.num_threads) * RoundUp(workspace_bytes, kAlignment) +
         RoundUp(partials * static_cast<int64_t>(sizeof(float)), kAlignment);
}

}  // namespace sepia::kernels::cpu
