#include "kernels/cached_attention.h"

#include "base/integer.h"
#include "kernels/check_args.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {
namespace {

void CheckIndex(const Context& ctx, const CachedAttentionArgs& args, int64_t length) {
  if (args.index == nullptr) return;
  CHECK_EQ(args.index->batch_size(), 1);
  CHECK_EQ(args.index->seq_length(), length);
  if (!OnCuda(ctx)) return;
  const auto check = [](const ConstTensorView& part, const char* name, int64_t least) {
    CHECK(part.dtype() == DType::kInt32 && part.rank() == 1 && part.dim(0) >= least,
          "far_keys.{} is {} {}, expected at least {} i32", name, DTypeName(part.dtype()),
          part.shape(), least);
  };
  check(args.far_keys.positions, "positions", args.index->max_packed());
  check(args.far_keys.count, "count", length);
}

}  // namespace

void CachedAttention(Context& ctx, const CachedAttentionArgs& args) {
  CheckDevice(ctx);
  CHECK(ctx.scratch != nullptr, "attention needs scratch memory");
  const DType dtype = args.qkv.dtype();
  CheckComputeDType(dtype, "qkv");
  CHECK(args.qkv.rank() == 4 && args.qkv.dim(2) == 3, "qkv is {}, expected [N, H, 3, D]",
        args.qkv.shape());
  const int64_t num_new = args.qkv.dim(0);
  const int64_t num_heads = args.qkv.dim(1);
  const int64_t head_dim = args.qkv.dim(3);
  CHECK(args.begin >= 0 && args.window >= 1);
  CHECK_LE(args.begin + num_new, args.keys.dim(0));
  CheckTensor(args.keys, "keys", dtype, {args.keys.dim(0), num_heads, head_dim});
  CheckTensor(args.values, "values", dtype, args.keys.shape());
  CheckTensor(args.out, "out", dtype, {num_new, num_heads, head_dim});
  CheckIndex(ctx, args, args.begin + num_new);
  if (args.qkv.num_elements() == 0) return;
  OnCuda(ctx) ? cuda::CachedAttention(ctx, args) : cpu::CachedAttention(ctx, args);
}

int64_t CachedAttentionScratchBytes(const CachedAttentionShape& shape) {
  if (shape.device == Device::kCuda) return cuda::CachedAttentionScratchBytes(shape);
  const int64_t row_bytes = shape.length * DTypeSize(DType::kFloat32);
  return RoundUp(shape.num_threads * row_bytes, Arena::kAlignment);
}

}  // namespace sepia::kernels
