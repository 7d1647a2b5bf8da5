#include "kernels/cpu/sep_attention.h"

#include <algorithm>

#include "kernels/cpu/amx/sep_attention.h"
#include "kernels/cpu/attention_segments.h"
#include "kernels/cpu/isa/sep_attention.h"

namespace sepia::kernels::cpu {
namespace {

// A segment begins at a chunk and at a tile.
constexpr AttentionCut kCut = {.granularity = kChunkKeys,
                               .shortest_forward = 2 * kChunkKeys,
                               .shortest_backward = 4 * kChunkKeys};

int64_t PaddedDim(int64_t head_dim) { return RoundUp(head_dim, 16); }

// Band and packed chunks together hold at most T keys, and their ends 4 partly filled chunks.
int64_t MaxChunks(int64_t seq_length) { return CeilDiv(seq_length, kChunkKeys) + 4; }

// Floats of one task's workspace, a mark per slot included. `chunk_arrays`: copies of a chunk that
// it keeps per slot (forward K^T, V; backward K^T, V^T, K, dK, dV); `tile_arrays`, `score_arrays`:
// those of a tile of queries.
int64_t WorkspaceFloats(int64_t seq_length, int64_t padded_dim, int64_t chunk_arrays,
                        int64_t tile_arrays, int64_t score_arrays) {
  const int64_t chunk_rows = (MaxChunks(seq_length) * chunk_arrays + 1) * kChunkKeys;
  return (chunk_rows + tile_arrays * kTileQueries) * padded_dim +
         score_arrays * kTileQueries * kChunkKeys + MaxChunks(seq_length);
}
constexpr int64_t kFloatBytes = sizeof(float);
int64_t ForwardBytes(int64_t seq_length, int64_t padded_dim) {
  return WorkspaceFloats(seq_length, padded_dim, 2, 2, 1) * kFloatBytes;
}
int64_t BackwardBytes(int64_t seq_length, int64_t padded_dim) {
  return WorkspaceFloats(seq_length, padded_dim, 5, 5, 3) * kFloatBytes;
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

// The work of one call.
class Plan : public AttentionSegments {
 public:
  Plan(const Context& ctx, Pass pass, ConstTensorView qkv, const AttentionIndex* index,
       int64_t window, ConstTensorView output)
      : AttentionSegments(ctx, pass, qkv, index, window, kCut),
        qkv_(qkv),
        stream_(WritesPastCaches(qkv, output)) {}

  int64_t padded_dim() const { return PaddedDim(head_dim()); }
  int64_t HeadBytes(int64_t head, int64_t parts) const { return HeadOffset(head, parts) * size(); }
  int64_t RowBytes(int64_t parts) const { return RowStride(parts) * size(); }

  AttentionHead Head(int64_t head) const {
    const PackedKeys packed = PackedKeysOf(head);
    return {.dtype = qkv_.dtype(),
            .seq_length = seq_length(),
            .head_dim = head_dim(),
            .padded_dim = padded_dim(),
            .window = window(),
            .qkv = static_cast<const std::byte*>(qkv_.raw()) + HeadBytes(head, 3),
            .qkv_row_bytes = RowBytes(3),
            .stream = stream_,
            .positions = packed.positions,
            .count = packed.count,
            .inverse = packed.inverse};
  }

  AttentionSegment SegmentOf(const Task& task, std::byte* workspace) const {
    const int64_t begin = Begin(task.head, task.segment);
    const int64_t end = End(task.head, task.end_segment - 1);
    const int64_t first_chunk = std::max<int64_t>(0, begin - window() + 1) / kChunkKeys;
    const int64_t all_chunks = CeilDiv(end, kChunkKeys) - first_chunk;
    return {.begin = begin,
            .end = end,
            .ring_chunks = std::min(all_chunks, CeilDiv(window() - 1, kChunkKeys) + 1),
            .num_packed = NumPacked(task.head, task.end_segment - 1),
            .workspace = reinterpret_cast<float*>(workspace)};
  }

 private:
  int64_t size() const { return DTypeSize(qkv_.dtype()); }

  ConstTensorView qkv_;
  bool stream_;
};

using KeySums = AttentionSums<AttentionKeySums>;

std::byte* Offset(TensorView tensor, int64_t num_bytes) {
  return static_cast<std::byte*>(tensor.raw()) + num_bytes;
}
const std::byte* Offset(ConstTensorView tensor, int64_t num_bytes) {
  return static_cast<const std::byte*>(tensor.raw()) + num_bytes;
}

void ReduceCutHeads(const Context& ctx, const Plan& plan, const KeySums& sums,
                    const AttentionWorkspaces& workspaces, TensorView dqkv) {
  const Kernels kernels = KernelsFor(dqkv.dtype());
  plan.ForEachCutKeyBlock(ctx, [&](int64_t number, int64_t begin, int64_t end) {
    const int64_t head = plan.cut_heads()[static_cast<size_t>(number)];
    QueryPart parts[kMaxBackwardSegments];
    AttentionKeySums sums_of_part[kMaxBackwardSegments];
    const int64_t num_parts = plan.PartsOf(plan.WholeHead(head), parts);
    sums.OfParts(head, sums_of_part);
    kernels.reduce({.head = plan.Head(head),
                    .parts = parts,
                    .sums = sums_of_part,
                    .num_parts = num_parts,
                    .key_begin = begin,
                    .key_end = end,
                    .dqkv = Offset(dqkv, plan.HeadBytes(head, 3)),
                    .workspace = reinterpret_cast<float*>(workspaces.OfThisThread())});
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
  const Plan plan(ctx, Plan::Pass::kForward, args.qkv, args.index, args.window, args.out);
  ScratchScope scratch(*ctx.scratch);
  const AttentionWorkspaces workspaces(ctx, scratch,
                                       ForwardBytes(plan.seq_length(), plan.padded_dim()));
  if (ctx.scratch->counting()) return;
  const Kernels kernels = KernelsFor(args.qkv.dtype());
  plan.ForEachTask(ctx, [&](const Plan::Task& task) {
    kernels.forward({.head = plan.Head(task.head),
                     .segment = plan.SegmentOf(task, workspaces.OfThisThread()),
                     .out = Offset(args.out, plan.HeadBytes(task.head, 1)),
                     .out_row_bytes = plan.RowBytes(1),
                     .lse = args.lse.data<float>() + task.head * plan.seq_length()});
  });
}

void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args) {
  if (amx::Serves(args.qkv.dtype())) {
    return amx::SepAttentionBackward(ctx, args, amx::ActiveTileCode());
  }
  const Plan plan(ctx, Plan::Pass::kBackward, args.qkv, args.index, args.window, args.dqkv);
  ScratchScope scratch(*ctx.scratch);
  const AttentionWorkspaces workspaces(ctx, scratch,
                                       BackwardBytes(plan.seq_length(), plan.padded_dim()));
  const KeySums sums(ctx, plan, plan.padded_dim(), scratch);
  if (ctx.scratch->counting()) return;
  const Kernels kernels = KernelsFor(args.qkv.dtype());
  plan.ForEachTask(ctx, [&](const Plan::Task& task) {
    const int64_t head = task.head;
    QueryPart parts[kMaxBackwardSegments];
    const int64_t num_parts = plan.PartsOf(task, parts);
    kernels.backward({.head = plan.Head(head),
                      .segment = plan.SegmentOf(task, workspaces.OfThisThread()),
                      .out = Offset(args.out, plan.HeadBytes(head, 1)),
                      .dout = Offset(args.dout, plan.HeadBytes(head, 1)),
                      .out_row_bytes = plan.RowBytes(1),
                      .lse = args.lse.data<float>() + head * plan.seq_length(),
                      .dqkv = Offset(args.dqkv, plan.HeadBytes(head, 3)),
                      .parts = parts,
                      .num_parts = num_parts,
                      .whole_head = plan.CutNumber(head) < 0,
                      .sums = sums.Of(task)});
  });
  ReduceCutHeads(ctx, plan, sums, workspaces, args.dqkv);
}

int64_t SepAttentionScratchBytes(const SepAttentionShape& shape) {
  if (amx::Serves(shape.dtype)) {
    return amx::SepAttentionScratchBytes(shape, amx::ActiveTileCode());
  }
  const int64_t dim = PaddedDim(shape.head_dim);
  return AttentionScratchBytes(shape, kCut, BackwardBytes(shape.seq_length, dim), dim);
}

}  // namespace sepia::kernels::cpu
