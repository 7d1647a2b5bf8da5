#include "kernels/cached_attention.h"

#include "base/integer.h"
#include "kernels/check_args.h"

namespace sepia::kernels {

void CachedAttention(Context& ctx, const CachedAttentionArgs& args) {
  CheckDevice(ctx);
  CHECK(!OnCuda(ctx), "there is no cached attention on the device");
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
  if (args.index != nullptr) {
    CHECK_EQ(args.index->batch_size(), 1);
    CHECK_EQ(args.index->seq_length(), args.begin + num_new);
  }
  cpu::CachedAttention(ctx, args);
}

int64_t CachedAttentionScratchBytes(int64_t length, int num_threads) {
  const int64_t row_bytes = length * DTypeSize(DType::kFloat32);
  return RoundUp(num_threads * row_bytes, Arena::kAlignment);
}

}  // namespace sepia::kernels
