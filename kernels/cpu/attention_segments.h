// What the drivers of Sep-Attention share, whatever code computes a task: how heads (b, h) are cut
// into segments of queries, a workspace per thread, sums of key gradients.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/attention_index.h"
#include "base/integer.h"
#include "base/tensor.h"
#include "kernels/context.h"
#include "kernels/cpu/attention_parts.h"
#include "kernels/cpu/attention_schedule.h"
#include "kernels/cpu/parallel.h"
#include "kernels/sep_attention.h"

namespace sepia::kernels::cpu {

// How a driver cuts heads.
struct AttentionCut {
  int64_t granularity;  // segments begin at multiples of it
  // Queries of a segment on average, at least.
  int64_t shortest_forward, shortest_backward;
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

  int64_t batch_size() const { return qkv_.dim(0); }
  int64_t num_heads() const { return qkv_.dim(0) * qkv_.dim(2); }  // of the whole batch
  int64_t num_segments() const { return schedule_.num_segments(); }
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

  // Segments [segment, end_segment) of a head.
  struct Task {
    int64_t head;
    int64_t segment, end_segment;
  };
  // fn(Task) for every task, costly ones first.
  template <typename Fn>
  void ForEachTask(const Context& ctx, const Fn& fn) const {
    ParallelFor(ctx, static_cast<int64_t>(schedule_.tasks().size()), [&](int64_t number) {
      const AttentionSchedule::Task& task = schedule_.tasks()[static_cast<size_t>(number)];
      fn(Task{task.row * qkv_.dim(2) + task.head, task.segment, task.end_segment});
    });
  }

  Task WholeHead(int64_t head) const { return {head, 0, num_segments()}; }
  // Segments that have queries, in order; returns their number. `parts` has room for
  // kMaxBackwardSegments.
  int64_t PartsOf(const Task& task, QueryPart* parts) const {
    int64_t count = 0;
    for (int64_t s = task.segment; s < task.end_segment; ++s) {
      if (Begin(task.head, s) == End(task.head, s)) continue;
      parts[count++] = {End(task.head, s), NumPacked(task.head, s)};
    }
    return count;
  }

  // Heads whose segments are tasks of their own, backward; the others are whole.
  const std::vector<int64_t>& cut_heads() const { return schedule_.cut_heads(); }
  // Number of a head among them, or -1.
  int64_t CutNumber(int64_t head) const {
    const auto found = std::find(cut_heads().begin(), cut_heads().end(), head);
    return found == cut_heads().end() ? -1 : found - cut_heads().begin();
  }

  // fn(number, begin, end) for cut head cut_heads()[number] and blocks of keys.
  template <typename Fn>
  void ForEachCutKeyBlock(const Context& ctx, const Fn& fn) const {
    constexpr int64_t kKeys = 256;
    const int64_t blocks = CeilDiv(seq_length(), kKeys);
    const auto heads = static_cast<int64_t>(cut_heads().size());
    ParallelFor(ctx, heads * blocks, [&](int64_t item) {
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
                                           CeilDiv(seq_length(), cut.shortest_forward));
    }
    return AttentionSchedule::Backward(work, ctx.num_threads,
                                       CeilDiv(seq_length(), cut.shortest_backward));
  }

  ConstTensorView qkv_;
  const AttentionIndex* index_;
  int64_t window_;
  AttentionSchedule schedule_;
};

// Stores that first read what they overwrite take three times as long (measured for rows of 256
// bytes, 9 KB apart). Small tensors stay in the cache for their reader.
inline bool WritesPastCaches(ConstTensorView qkv, ConstTensorView output) {
  constexpr int64_t kLargeBytes = int64_t{4} << 20;
  constexpr int64_t kLineBytes = 64;
  const int64_t part_bytes = qkv.dim(4) * DTypeSize(qkv.dtype());  // of q, k, v or out
  return qkv.num_bytes() >= kLargeBytes && part_bytes % kLineBytes == 0 &&
         reinterpret_cast<uintptr_t>(output.raw()) % kLineBytes == 0;
}

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

// Memory for sums of key gradients (kernels/cpu/attention_parts.h): slots of fp32 dk and dv [T,
// padded_dim], one for each segment of a cut head, and one a thread for heads that are whole.
struct AttentionSumSlots {
  AttentionSumSlots(int64_t batch_size, int64_t num_heads, int64_t num_segments, int num_threads) {
    if (num_segments == 1) return;
    const int64_t cut_heads = BackwardHeadsToCut(batch_size, num_heads, num_threads);
    of_segments = cut_heads * num_segments;
    of_threads = cut_heads == batch_size * num_heads ? 0 : std::max(1, num_threads);
  }
  int64_t count() const { return of_segments + of_threads; }

  int64_t of_segments = 0;
  int64_t of_threads = 0;
};

// Sums is {float* dk, float* dv}.
template <typename Sums>
class AttentionSums {
 public:
  AttentionSums(const Context& ctx, const AttentionSegments& segments, int64_t padded_dim,
                ScratchScope& scratch)
      : segments_(segments),
        slots_(segments.batch_size(), segments.num_heads() / segments.batch_size(),
               segments.num_segments(), ctx.num_threads),
        size_(segments.seq_length() * padded_dim) {
    if (slots_.count() == 0) return;
    memory_ =
        scratch.Allocate("sep_attention.key_sums", DType::kFloat32, {slots_.count(), 2, size_});
  }
  // For the thread that runs the task.
  Sums Of(const AttentionSegments::Task& task) const {
    if (slots_.count() == 0) return {nullptr, nullptr};
    const int64_t number = segments_.CutNumber(task.head);
    if (number < 0) return Slot(slots_.of_segments + ThreadIndex());
    return Slot(number * segments_.num_segments() + task.segment);
  }
  // Of the parts of a cut head.
  void OfParts(int64_t head, Sums* sums) const {
    for (int64_t s = 0; s < segments_.num_segments(); ++s) {
      if (segments_.Begin(head, s) < segments_.End(head, s)) *sums++ = Of({head, s, s + 1});
    }
  }

 private:
  Sums Slot(int64_t slot) const {
    float* dk = memory_.data<float>() + slot * 2 * size_;
    return {dk, dk + size_};
  }

  const AttentionSegments& segments_;
  AttentionSumSlots slots_;
  int64_t size_;
  TensorView memory_;
};

// Scratch that workspaces of `workspace_bytes` and sums of key gradients take for this shape.
inline int64_t AttentionScratchBytes(const SepAttentionShape& shape, const AttentionCut& cut,
                                     int64_t workspace_bytes, int64_t padded_dim) {
  constexpr int64_t kAlignment = 256;
  if (shape.batch_size * shape.num_heads == 0 || shape.seq_length == 0) return 0;
  const auto segments = BackwardCut::For(shape.batch_size * shape.num_heads,
                                         CeilDiv(shape.seq_length, cut.shortest_backward));
  const AttentionSumSlots slots(shape.batch_size, shape.num_heads, segments.num_segments(),
                                shape.num_threads);
  const int64_t floats = slots.count() * 2 * shape.seq_length * padded_dim;
  return std::max(1, shape.num_threads) * RoundUp(workspace_bytes, kAlignment) +
         RoundUp(floats * static_cast<int64_t>(sizeof(float)), kAlignment);
}

}  // namespace sepia::kernels::cpu
