#include "kernels/cpu/amx/sep_attention.h"

#include <algorithm>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels::cpu::amx {
namespace {

// Heads are cut into segments of queries until there are about this many tasks, so that a small
// batch still feeds several threads; every segment packs its far keys again, so that it should not
// be short. By the shape alone: the cut decides the order of sums.
constexpr int64_t kWantedTasks = 16;
constexpr int64_t kShortestSegment = 256;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t SegmentLength(int64_t num_heads, int64_t seq_length) {
  const int64_t wanted = std::max<int64_t>(1, kWantedTasks / num_heads);
  const int64_t length = CeilDiv(seq_length, wanted);
  return CeilDiv(length, kShortestSegment) * kShortestSegment;
}

// fp32 numbers of the partial dK (or dV) of one segment.
int64_t PartialSize(int64_t seq_length, int64_t head_dim) {
  return seq_length * CeilDiv(head_dim, 32) * 32;
}

// The work of one call: heads (b, h), each cut into the same segments.
class Plan {
 public:
  Plan(ConstTensorView qkv, const AttentionIndex* index, int64_t window)
      : qkv_(qkv),
        index_(index),
        window_(std::min(window, qkv.dim(1))),
        segment_length_(SegmentLength(num_heads(), qkv.dim(1))) {}

  int64_t num_heads() const { return qkv_.dim(0) * qkv_.dim(2); }
  int64_t num_segments() const { return CeilDiv(seq_length(), segment_length_); }
  int64_t num_tasks() const { return num_heads() * num_segments(); }
  int64_t seq_length() const { return qkv_.dim(1); }
  int64_t head_dim() const { return qkv_.dim(4); }
  int64_t row_of(int64_t head) const { return head / qkv_.dim(2); }

  // Elements of a tensor [B, T, H, parts, D]: from row to row, and before row 0 of a head.
  int64_t Stride(int64_t parts) const { return qkv_.dim(2) * parts * head_dim(); }
  int64_t HeadOffset(int64_t head, int64_t parts) const {
    return row_of(head) * seq_length() * Stride(parts) + head % qkv_.dim(2) * parts * head_dim();
  }

  Head HeadAt(int64_t head) const {
    const bool packed = index_ != nullptr && index_->max_packed() > 0;
    const int64_t row = row_of(head);
    return {.seq_length = seq_length(),
            .head_dim = head_dim(),
            .window = window_,
            .qkv = qkv_.data<BFloat16>() + HeadOffset(head, 3),
            .qkv_stride = Stride(3),
            .positions = packed ? index_->positions(row).data() : nullptr,
            .count = packed ? index_->count(row).data() : nullptr,
            .inverse = packed ? index_->inverse(row).data() : nullptr};
  }

  Segment SegmentAt(int64_t head, int64_t segment, std::byte* workspace) const {
    const int64_t begin = segment * segment_length_;
    const int64_t end = std::min(begin + segment_length_, seq_length());
    const int64_t last_far = end - 1 - window_;  // the last query sees packed keys up to here
    const bool packed = index_ != nullptr && last_far >= 0;
    return {.begin = begin,
            .end = end,
            .num_packed = packed ? index_->count(row_of(head))[static_cast<size_t>(last_far)] : 0,
            .workspace = workspace};
  }

  // fn(head, segment) for every task, late and therefore long segments first.
  template <typename Fn>
  void ForEachTask(const Context& ctx, const Fn& fn) const {
    ParallelFor(ctx, num_tasks(), [&](int64_t task) {
      fn(task % num_heads(), num_segments() - 1 - task / num_heads());
    });
  }

 private:
  ConstTensorView qkv_;
  const AttentionIndex* index_;
  int64_t window_;
  int64_t segment_length_;
};

// One workspace a thread.
class Workspaces {
 public:
  Workspaces(const Context& ctx, ScratchScope& scratch, int64_t num_bytes)
      : memory_(scratch.Allocate("sep_attention.workspace", DType::kUInt8,
                                 {std::max(1, ctx.num_threads), CeilDiv(num_bytes, 256) * 256})) {}
  std::byte* OfThisThread() const {
    return static_cast<std::byte*>(memory_.raw()) + ThreadIndex() * memory_.dim(1);
  }

 private:
  TensorView memory_;
};

// Partial key gradients of every (head, segment); none when heads are not cut.
class PartialGradients {
 public:
  PartialGradients(const Plan& plan, ScratchScope& scratch)
      : num_segments_(plan.num_segments()), size_(PartialSize(plan.seq_length(), plan.head_dim())) {
    if (num_segments_ == 1) return;
    memory_ =
        scratch.Allocate("sep_attention.partials", DType::kFloat32, {plan.num_tasks(), 2, size_});
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

void ReducePartials(const Context& ctx, const Plan& plan, const PartialGradients& partials,
                    const TileCode& code, BFloat16* dqkv) {
  constexpr int64_t kKeys = 256;
  const int64_t blocks = CeilDiv(plan.seq_length(), kKeys);
  ParallelFor(ctx, plan.num_heads() * blocks, [&](int64_t item) {
    const int64_t head = item / blocks;
    Segment segments[kWantedTasks];
    Partials sums[kWantedTasks];
    for (int64_t s = 0; s < plan.num_segments(); ++s) {
      segments[s] = plan.SegmentAt(head, s, nullptr);
      sums[s] = partials.Of(head, s);
    }
    const int64_t begin = item % blocks * kKeys;
    code.reduce({.head = plan.HeadAt(head),
                 .segments = segments,
                 .partials = sums,
                 .num_segments = plan.num_segments(),
                 .key_begin = begin,
                 .key_end = std::min(begin + kKeys, plan.seq_length()),
                 .dqkv = dqkv + plan.HeadOffset(head, 3)});
  });
}

}  // namespace

bool Serves(DType dtype) { return dtype == DType::kBFloat16 && ActiveIsa() == Isa::kAmx; }

const TileCode& ActiveTileCode() { return hardware::kTileCode; }

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args, const TileCode& code) {
  const Plan plan(args.qkv, args.index, args.window);
  ScratchScope scratch(*ctx.scratch);
  const Workspaces workspaces(ctx, scratch, code.forward_bytes(plan.seq_length(), plan.head_dim()));
  if (ctx.scratch->counting()) return;
  plan.ForEachTask(ctx, [&](int64_t head, int64_t segment) {
    code.forward({.head = plan.HeadAt(head),
                  .segment = plan.SegmentAt(head, segment, workspaces.OfThisThread()),
                  .out = args.out.data<BFloat16>() + plan.HeadOffset(head, 1),
                  .out_stride = plan.Stride(1),
                  .lse = args.lse.data<float>() + head * plan.seq_length()});
  });
}

void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args,
                          const TileCode& code) {
  const Plan plan(args.qkv, args.index, args.window);
  ScratchScope scratch(*ctx.scratch);
  const Workspaces workspaces(ctx, scratch,
                              code.backward_bytes(plan.seq_length(), plan.head_dim()));
  const PartialGradients partials(plan, scratch);
  if (ctx.scratch->counting()) return;
  auto* dqkv = args.dqkv.data<BFloat16>();
  plan.ForEachTask(ctx, [&](int64_t head, int64_t segment) {
    code.backward({.head = plan.HeadAt(head),
                   .segment = plan.SegmentAt(head, segment, workspaces.OfThisThread()),
                   .out = args.out.data<BFloat16>() + plan.HeadOffset(head, 1),
                   .dout = args.dout.data<BFloat16>() + plan.HeadOffset(head, 1),
                   .out_stride = plan.Stride(1),
                   .lse = args.lse.data<float>() + head * plan.seq_length(),
                   .dqkv = dqkv + plan.HeadOffset(head, 3),
                   .partials = partials.Of(head, segment)});
  });
  if (plan.num_segments() > 1) ReducePartials(ctx, plan, partials, code, dqkv);
}

int64_t SepAttentionScratchBytes(const SepAttentionShape& shape, const TileCode& code) {
  const int64_t num_heads = shape.batch_size * shape.num_heads;
  if (num_heads == 0 || shape.seq_length == 0) return 0;
  const auto padded = [](int64_t bytes) { return CeilDiv(bytes, 256) * 256; };
  const int64_t workspace = padded(std::max(code.forward_bytes(shape.seq_length, shape.head_dim),
                                            code.backward_bytes(shape.seq_length, shape.head_dim)));
  const int64_t segments = CeilDiv(shape.seq_length, SegmentLength(num_heads, shape.seq_length));
  const int64_t partials =
      segments == 1 ? 0 : num_heads * segments * 2 * PartialSize(shape.seq_length, shape.head_dim);
  return std::max(1, shape.num_threads) * workspace + padded(4 * partials);
}

}  // namespace sepia::kernels::cpu::amx
