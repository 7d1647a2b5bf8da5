#include "kernels/cpu/amx/sep_attention.h"

#include <algorithm>

#include "kernels/cpu/attention_segments.h"
#include "kernels/cpu/cpu_features.h"

namespace sepia::kernels::cpu::amx {
namespace {

// Every segment packs its far keys again, so that it should not be short. 128 queries are swept
// together.
constexpr AttentionCut kCut = {
    .granularity = 128, .shortest_forward = 256, .shortest_backward = 384};

// Floats of a row of partial dK or dV.
int64_t PaddedDim(int64_t head_dim) { return RoundUp(head_dim, 32); }

// The work of one call.
class Plan : public AttentionSegments {
 public:
  Plan(const Context& ctx, Pass pass, ConstTensorView qkv, const AttentionIndex* index,
       int64_t window, ConstTensorView output)
      : AttentionSegments(ctx, pass, qkv, index, window, kCut),
        qkv_(qkv.data<BFloat16>()),
        stream_(WritesPastCaches(qkv, output)) {}

  Head HeadAt(int64_t head) const {
    const PackedKeys packed = PackedKeysOf(head);
    return {.seq_length = seq_length(),
            .head_dim = head_dim(),
            .window = window(),
            .qkv = qkv_ + HeadOffset(head, 3),
            .qkv_stride = RowStride(3),
            .stream = stream_,
            .positions = packed.positions,
            .count = packed.count,
            .inverse = packed.inverse};
  }

  Segment SegmentOf(const Task& task, std::byte* workspace) const {
    return {.begin = Begin(task.head, task.segment),
            .end = End(task.head, task.end_segment - 1),
            .num_packed = NumPacked(task.head, task.end_segment - 1),
            .workspace = workspace};
  }

 private:
  const BFloat16* qkv_;
  bool stream_;
};

using Sums = AttentionSums<KeySums>;

void ReduceCutHeads(const Context& ctx, const Plan& plan, const Sums& sums, const TileCode& code,
                    BFloat16* dqkv) {
  plan.ForEachCutKeyBlock(ctx, [&](int64_t number, int64_t begin, int64_t end) {
    const int64_t head = plan.cut_heads()[static_cast<size_t>(number)];
    QueryPart parts[kMaxBackwardSegments];
    KeySums sums_of_part[kMaxBackwardSegments];
    const int64_t num_parts = plan.PartsOf(plan.WholeHead(head), parts);
    sums.OfParts(head, sums_of_part);
    code.reduce({.head = plan.HeadAt(head),
                 .parts = parts,
                 .sums = sums_of_part,
                 .num_parts = num_parts,
                 .key_begin = begin,
                 .key_end = end,
                 .dqkv = dqkv + plan.HeadOffset(head, 3)});
  });
}

}  // namespace

bool Serves(DType dtype) { return dtype == DType::kBFloat16 && ActiveIsa() == Isa::kAmx; }

const TileCode& ActiveTileCode() { return hardware::kTileCode; }

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args, const TileCode& code) {
  const Plan plan(ctx, Plan::Pass::kForward, args.qkv, args.index, args.window, args.out);
  ScratchScope scratch(*ctx.scratch);
  const AttentionWorkspaces workspaces(ctx, scratch,
                                       code.forward_bytes(plan.seq_length(), plan.head_dim()));
  if (ctx.scratch->counting()) return;
  plan.ForEachTask(ctx, [&](const Plan::Task& task) {
    code.forward({.head = plan.HeadAt(task.head),
                  .segment = plan.SegmentOf(task, workspaces.OfThisThread()),
                  .out = args.out.data<BFloat16>() + plan.HeadOffset(task.head, 1),
                  .out_stride = plan.RowStride(1),
                  .lse = args.lse.data<float>() + task.head * plan.seq_length()});
  });
}

void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args,
                          const TileCode& code) {
  const Plan plan(ctx, Plan::Pass::kBackward, args.qkv, args.index, args.window, args.dqkv);
  ScratchScope scratch(*ctx.scratch);
  const AttentionWorkspaces workspaces(ctx, scratch,
                                       code.backward_bytes(plan.seq_length(), plan.head_dim()));
  const Sums sums(ctx, plan, PaddedDim(plan.head_dim()), scratch);
  if (ctx.scratch->counting()) return;
  auto* dqkv = args.dqkv.data<BFloat16>();
  plan.ForEachTask(ctx, [&](const Plan::Task& task) {
    const int64_t head = task.head;
    QueryPart parts[kMaxBackwardSegments];
    const int64_t num_parts = plan.PartsOf(task, parts);
    code.backward({.head = plan.HeadAt(head),
                   .segment = plan.SegmentOf(task, workspaces.OfThisThread()),
                   .out = args.out.data<BFloat16>() + plan.HeadOffset(head, 1),
                   .dout = args.dout.data<BFloat16>() + plan.HeadOffset(head, 1),
                   .out_stride = plan.RowStride(1),
                   .lse = args.lse.data<float>() + head * plan.seq_length(),
                   .dqkv = dqkv + plan.HeadOffset(head, 3),
                   .parts = parts,
                   .num_parts = num_parts,
                   .whole_head = plan.CutNumber(head) < 0,
                   .sums = sums.Of(task)});
  });
  ReduceCutHeads(ctx, plan, sums, code, dqkv);
}

int64_t SepAttentionScratchBytes(const SepAttentionShape& shape, const TileCode& code) {
  const int64_t workspace = std::max(code.forward_bytes(shape.seq_length, shape.head_dim),
                                     code.backward_bytes(shape.seq_length, shape.head_dim));
  return AttentionScratchBytes(shape, kCut, workspace, PaddedDim(shape.head_dim));
}

}  // namespace sepia::kernels::cpu::amx
