#include "kernels/sep_attention.h"

#include <algorithm>

#include "kernels/check_args.h"
#include "kernels/cpu/amx/sep_attention.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/sep_attention.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {
namespace {

struct Shapes {
  Shape out;  // [B, T, H, D]
  Shape lse;  // [B, H, T]
};

Shapes CheckCommon(const Context& ctx, ConstTensorView qkv, const AttentionIndex* index,
                   int64_t window) {
  CheckDevice(ctx);
  CHECK(ctx.scratch != nullptr, "Sep-Attention needs scratch memory");
  CHECK(qkv.rank() == 5 && qkv.dim(3) == 3 && qkv.dim(4) >= 1, "qkv is {}", qkv.shape());
  CheckComputeDType(qkv.dtype(), "qkv");
  CHECK_GE(window, 1);
  if (index != nullptr) {
    CHECK_EQ(index->batch_size(), qkv.dim(0));
    CHECK_EQ(index->seq_length(), qkv.dim(1));
  }
  return {.out = {qkv.dim(0), qkv.dim(1), qkv.dim(2), qkv.dim(4)},
          .lse = {qkv.dim(0), qkv.dim(2), qkv.dim(1)}};
}

}  // namespace

void SepAttentionForward(Context& ctx, const SepAttentionForwardArgs& args) {
  const Shapes shapes = CheckCommon(ctx, args.qkv, args.index, args.window);
  CheckTensor(args.out, "out", args.qkv.dtype(), shapes.out);
  CheckTensor(args.lse, "lse", DType::kFloat32, shapes.lse);
  if (args.qkv.num_elements() == 0) return;
  CHECK(args.out.raw() != args.qkv.raw() || args.out.raw() == nullptr, "out aliases qkv");
  OnCuda(ctx) ? cuda::SepAttentionForward(ctx, args) : cpu::SepAttentionForward(ctx, args);
}

void SepAttentionBackward(Context& ctx, const SepAttentionBackwardArgs& args) {
  const Shapes shapes = CheckCommon(ctx, args.qkv, args.index, args.window);
  const DType dtype = args.qkv.dtype();
  CheckTensor(args.out, "out", dtype, shapes.out);
  CheckTensor(args.dout, "dout", dtype, shapes.out);
  CheckTensor(args.lse, "lse", DType::kFloat32, shapes.lse);
  CheckTensor(args.dqkv, "dqkv", dtype, args.qkv.shape());
  if (args.qkv.num_elements() == 0) return;
  CHECK(args.dqkv.raw() != args.qkv.raw() || args.dqkv.raw() == nullptr, "dqkv aliases qkv");
  OnCuda(ctx) ? cuda::SepAttentionBackward(ctx, args) : cpu::SepAttentionBackward(ctx, args);
}

int64_t SepAttentionScratchBytes(const SepAttentionShape& shape) {
  if (shape.device == Device::kCpu) return cpu::SepAttentionScratchBytes(shape);
  const int64_t own = cuda::SepAttentionScratchBytes(shape);
  if (shape.full_attention == FullAttention::kOwn) return own;
  return std::max(own, cuda::InArena(static_cast<size_t>(cuda::DnnScratchBytes(shape))));
}

const char* SepAttentionIsaName(DType dtype) {
  if (cpu::amx::Serves(dtype)) return cpu::IsaName(cpu::Isa::kAmx).data();
  if (cpu::MultipliesPairs(dtype)) return cpu::IsaName(cpu::Isa::kAvx512Bf16).data();
  return cpu::IsaName(std::min(cpu::ActiveIsa(), cpu::Isa::kAvx512)).data();
}

std::string SepAttentionKernelName(const Context& ctx, DType dtype, int64_t head_dim) {
  return OnCuda(ctx) ? cuda::SepAttentionKernelName(dtype, head_dim, ctx.allow_fallback)
                     : SepAttentionIsaName(dtype);
}

std::string FullAttentionKernelName(const Context& ctx, const SepAttentionShape& shape) {
  if (OnCuda(ctx) && ctx.full_attention == FullAttention::kCudnn) return cuda::DnnKernelName(shape);
  return SepAttentionKernelName(ctx, shape.dtype, shape.head_dim);
}

}  // namespace sepia::kernels
