#include "kernels/cpu/sep_attention.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/amx/sep_attention.h"
#include "kernels/cpu/isa/sep_attention.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels::cpu {
namespace {

// Heads are cut into segments of queries until there are about this many tasks, so that a small
// batch still feeds several threads. By the shape alone: the cut decides the order of sums.
constexpr int64_t kWantedTasks = 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t PaddedDim(int64_t head_dim) { return CeilDiv(head_dim, 16) * 16; }

// Queries of a segment, a multiple of kChunkKeys.
int64_t SegmentLength(int64_t num_heads, int64_t seq_length) {
  const int64_t wanted = std::max<int64_t>(1, kWantedTasks / num_heads);
  return CeilDiv(CeilDiv(seq_length, wanted), 2 * kChunkKeys) * 2 * kChunkKeys;
}

// Band and packed chunks together hold at most T keys, and their ends 4 partly filled chunks.
int64_t MaxChunks(int64_t seq_length) { return CeilDiv(seq_length, kChunkKeys) + 4; }

// Floats of one task's workspace. `chunk_arrays`: copies of a chunk that it keeps per slot (forward
// K^T, V; backward K^T, V^T, K, dK, dV); `tile_arrays`, `score_arrays`: those of a tile of queries.
int64_t WorkspaceFloats(int64_t seq_length, int64_t padded_dim, int64_t chunk_arrays,
                        int64_t tile_arrays, int64_t score_arrays) {
  const int64_t chunk_rows = (MaxChunks(seq_length) * chunk_arrays + 1) * kChunkKeys;
  return (chunk_rows + tile_arrays * kTileQueries) * padded_dim +
         score_arrays * kTileQueries * kChunkKeys;
}
int64_t ForwardFloats(int64_t seq_length, int64_t padded_dim) {
  return WorkspaceFloats(seq_length, padded_dim, 2, 2, 1);
}
int64_t BackwardFloats(int64_t seq_length, int64_t padded_dim) {
  return WorkspaceFloats(seq_length, padded_dim, 5, 5, 3);
}

// Stores that first read what they overwrite take three times as long (measured for rows of 256
// bytes, 9 KB apart). Small tensors stay in the cache for their reader.
bool WritesPastCaches(ConstTensorView qkv, ConstTensorView output) {
  constexpr int64_t kLargeBytes = int64_t{4} << 20;
  constexpr int64_t kLineBytes = 64;
  const int64_t part_bytes = qkv.dim(4) * DTypeSize(qkv.dtype());  // of q, k, v or out
  return qkv.num_bytes() >= kLargeBytes && part_bytes % kLineBytes == 0 &&
         reinterpret_cast<uintptr_t>(output.raw()) % kLineBytes == 0;
}

struct Kernels {
  void (*forward)(const AttentionForwardTask&);
  void (*backward)(const AttentionBackwardTask&);
  void (*reduce)(const AttentionReduceTask&);
};

Kernels KernelsFor(DType dtype) {
  if (MultipliesPairs(dtype)) {
    return {avx512_bf16::ForwardSegment, avx512_bf16::BackwardSegment,
            avx512_bf16::ReduceKeyGradients};
  }
  return {SEPIA_BY_ISA(ForwardSegment), SEPIA_BY_ISA(BackwardSegment),
          SEPIA_BY_ISA(ReduceKeyGradients)};
}

// The work of one call: heads (b, h), each cut into the same segments.
class Plan {
 public:
  Plan(ConstTensorView qkv, const AttentionIndex* index, int64_t window, ConstTensorView output)
      : qkv_(qkv),
        index_(index),
        window_(std::min(window, qkv.dim(1))),
        stream_(WritesPastCaches(qkv, output)),
        segment_length_(SegmentLength(std::max<int64_t>(1, qkv.dim(0) * qkv.dim(2)), qkv.dim(1))) {}

  int64_t num_heads() const { return qkv_.dim(0) * qkv_.dim(2); }
  int64_t num_segments() const { return CeilDiv(seq_length(), segment_length_); }
  int64_t num_tasks() const { return num_heads() * num_segments(); }
  int64_t seq_length() const { return qkv_.dim(1); }
  int64_t padded_dim() const { return PaddedDim(qkv_.dim(4)); }
  int64_t row_of(int64_t head) const { return head / qkv_.dim(2); }

  // Byte offset of head `head` in row 0 of its sequence, in a tensor [B, T, H, parts, D].
  int64_t HeadOffset(int64_t head, int64_t parts) const {
    const int64_t h = head % qkv_.dim(2);
    return (row_of(head) * seq_length() * qkv_.dim(2) + h) * parts * qkv_.dim(4) *
           DTypeSize(qkv_.dtype());
  }
  int64_t RowBytes(int64_t parts) const {
    return qkv_.dim(2) * parts * qkv_.dim(4) * DTypeSize(qkv_.dtype());
  }

  AttentionHead Head(int64_t head) const {
    const bool packed = index_ != nullptr && index_->max_packed() > 0;
    const int64_t row = row_of(head);
    return {.dtype = qkv_.dtype(),
            .seq_length = seq_length(),
            .head_dim = qkv_.dim(4),
            .padded_dim = padded_dim(),
            .window = window_,
            .qkv = static_cast<const std::byte*>(qkv_.raw()) + HeadOffset(head, 3),
            .qkv_row_bytes = RowBytes(3),
            .stream = stream_,
            .positions = packed ? index_->positions(row).data() : nullptr,
            .count = packed ? index_->count(row).data() : nullptr,
            .inverse = packed ? index_->inverse(row).data() : nullptr};
  }

  AttentionSegment Segment(int64_t head, int64_t segment, float* workspace) const {
    const int64_t begin = segment * segment_length_;
    const int64_t end = std::min(begin + segment_length_, seq_length());
    const int64_t first_chunk = std::max<int64_t>(0, begin - window_ + 1) / kChunkKeys;
    const int64_t all_chunks = CeilDiv(end, kChunkKeys) - first_chunk;
    const int64_t last_far = end - 1 - window_;  // the last query sees packed keys up to here
    const bool packed = index_ != nullptr && last_far >= 0;
    return {.begin = begin,
            .end = end,
            .ring_chunks = std::min(all_chunks, CeilDiv(window_ - 1, kChunkKeys) + 1),
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
  bool stream_;
  int64_t segment_length_;
};

// One workspace a thread.
class Workspaces {
 public:
  Workspaces(const Context& ctx, ScratchScope& scratch, int64_t num_floats)
      : stride_(CeilDiv(num_floats, 64) * 64),
        memory_(scratch.Allocate("sep_attention.workspace", DType::kFloat32,
                                 {std::max(1, ctx.num_threads), stride_})) {}
  float* OfThisThread() const { return memory_.data<float>() + ThreadIndex() * stride_; }

 private:
  int64_t stride_;
  TensorView memory_;
};

std::byte* Offset(TensorView tensor, int64_t num_bytes) {
  return static_cast<std::byte*>(tensor.raw()) + num_bytes;
}
const std::byte* Offset(ConstTensorView tensor, int64_t num_bytes) {
  return static_cast<const std::byte*>(tensor.raw()) + num_bytes;
}

// Partial key gradients of every (head, segment); none when heads are not cut.
class PartialGradients {
 public:
  PartialGradients(const Plan& plan, ScratchScope& scratch)
      : num_segments_(plan.num_segments()), size_(plan.seq_length() * plan.padded_dim()) {
    if (num_segments_ == 1) return;
    memory_ =
        scratch.Allocate("sep_attention.partials", DType::kFloat32, {plan.num_tasks(), 2, size_});
  }
  AttentionPartials Of(int64_t head, int64_t segment) const {
    if (num_segments_ == 1) return {nullptr, nullptr};
    float* dk = memory_.data<float>() + (head * num_segments_ + segment) * 2 * size_;
    return {dk, dk + size_};
  }

 private:
  int64_t num_segments_;
  int64_t size_;
  TensorView memory_;
};

void ReducePartials(Context& ctx, const Plan& plan, const PartialGradients& partials,
                    const Workspaces& workspaces, TensorView dqkv) {
  constexpr int64_t kKeys = 256;
  const int64_t blocks = CeilDiv(plan.seq_length(), kKeys);
  ParallelFor(ctx, plan.num_heads() * blocks, [&](int64_t item) {
    const int64_t head = item / blocks;
    AttentionSegment segments[kWantedTasks];
    AttentionPartials sums[kWantedTasks];
    for (int64_t s = 0; s < plan.num_segments(); ++s) {
      segments[s] = plan.Segment(head, s, nullptr);
      sums[s] = partials.Of(head, s);
    }
    const int64_t begin = item % blocks * kKeys;
    KernelsFor(dqkv.dtype())
        .reduce({.head = plan.Head(head),
                 .segments = segments,
                 .partials = sums,
                 .num_segments = static_cast<int>(plan.num_segments()),
                 .key_begin = begin,
                 .key_end = std::min(begin + kKeys, plan.seq_length()),
                 .dqkv = Offset(dqkv, plan.HeadOffset(head, 3)),
                 .workspace = workspaces.OfThisThread()});
  });
}

}  // namespace

bool MultipliesPairs(DType dtype) {
  return dtype == DType::kBFloat16 && ActiveIsa() == Isa::kAvx512Bf16;
}

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args) {
  if (amx::Serves(args.qkv.dtype())) {
    return amx::SepAttentionForward(ctx, args, amx::ActiveTileCode());
  }
  const Plan plan(args.qkv, args.index, args.window, args.out);
  ScratchScope scratch(*ctx.scratch);
  const Workspaces workspaces(ctx, scratch, ForwardFloats(plan.seq_length(), plan.padded_dim()));
  if (ctx.scratch->counting()) return;
  const Kernels kernels = KernelsFor(args.qkv.dtype());
  plan.ForEachTask(ctx, [&](int64_t head, int64_t segment) {
    kernels.forward({.head = plan.Head(head),
                     .segment = plan.Segment(head, segment, workspaces.OfThisThread()),
                     .out = Offset(args.out, plan.HeadOffset(head, 1)),
                     .out_row_bytes = plan.RowBytes(1),
                     .lse = args.lse.data<float>() + head * plan.seq_length()});
  });
}

void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args) {
  if (amx::Serves(args.qkv.dtype())) {
    return amx::SepAttentionBackward(ctx, args, amx::ActiveTileCode());
  }
  const Plan plan(args.qkv, args.index, args.window, args.dqkv);
  ScratchScope scratch(*ctx.scratch);
  const Workspaces workspaces(ctx, scratch, BackwardFloats(plan.seq_length(), plan.padded_dim()));
  const PartialGradients partials(plan, scratch);
  if (ctx.scratch->counting()) return;
  const Kernels kernels = KernelsFor(args.qkv.dtype());
  plan.ForEachTask(ctx, [&](int64_t head, int64_t segment) {
    kernels.backward({.head = plan.Head(head),
                      .segment = plan.Segment(head, segment, workspaces.OfThisThread()),
                      .out = Offset(args.out, plan.HeadOffset(head, 1)),
                      .dout = Offset(args.dout, plan.HeadOffset(head, 1)),
                      .out_row_bytes = plan.RowBytes(1),
                      .lse = args.lse.data<float>() + head * plan.seq_length(),
                      .dqkv = Offset(args.dqkv, plan.HeadOffset(head, 3)),
                      .partials = partials.Of(head, segment)});
  });
  if (plan.num_segments() > 1) ReducePartials(ctx, plan, partials, workspaces, args.dqkv);
}

int64_t SepAttentionScratchBytes(const SepAttentionShape& shape) {
  if (amx::Serves(shape.dtype)) {
    return amx::SepAttentionScratchBytes(shape, amx::ActiveTileCode());
  }
  const int64_t num_heads = shape.batch_size * shape.num_heads;
  if (num_heads == 0 || shape.seq_length == 0) return 0;
  const int64_t dim = PaddedDim(shape.head_dim);
  const auto bytes = [](int64_t num_floats) { return CeilDiv(num_floats * 4, 256) * 256; };
  const int64_t workspace = bytes(BackwardFloats(shape.seq_length, dim));
  const int64_t segments = CeilDiv(shape.seq_length, SegmentLength(num_heads, shape.seq_length));
  const int64_t partials = segments == 1 ? 0 : num_heads * segments * 2 * shape.seq_length * dim;
  return std::max(1, shape.num_threads) * workspace + bytes(partials);
}

}  // namespace sepia::kernels::cpu
