#include "tools/sepia/attention_workload.h"

#include "base/check.h"
#include "kernels/sep_attention.h"
#include "tools/sepia/attention_check.h"
#include "tools/sepia/random_tensor.h"

namespace sepia::tools {
namespace {

using kernels::cpu::Isa;
using kernels::cpu::ScopedIsa;

const char* IsaNameOn(Isa isa, DType dtype) {
  const ScopedIsa scope(isa);
  return kernels::SepAttentionIsaName(dtype);
}

int64_t ScratchBytesOn(const AttentionWorkload::Variant& variant, ConstTensorView qkv) {
  const ScopedIsa scope(variant.isa);
  return kernels::SepAttentionScratchBytes(
      {qkv.dim(0), qkv.dim(1), qkv.dim(2), qkv.dim(4), qkv.dtype(), variant.num_threads});
}

}  // namespace

AttentionBuffers::AttentionBuffers(const AttentionShape& s, DType dtype)
    : qkv(RandomTensor("qkv", dtype, {s.batch, s.seq, s.heads, 3, s.head_dim})),
      dout(RandomTensor("dout", dtype, {s.batch, s.seq, s.heads, s.head_dim})),
      out(dtype, dout.view().shape()),
      dqkv(dtype, qkv.view().shape()),
      lse(DType::kFloat32, {s.batch, s.heads, s.seq}) {}

int64_t AttentionBuffers::TouchedBytes() const {
  const int64_t forward = qkv.view().num_bytes() + out.view().num_bytes() + lse.view().num_bytes();
  return 2 * forward + dout.view().num_bytes() + dqkv.view().num_bytes();
}

AttentionWorkload::AttentionWorkload(const AttentionBuffers& buffers, const AttentionIndex& index,
                                     const Variant& variant)
    : buffers_(buffers),
      index_(index),
      variant_(variant),
      isa_name_(IsaNameOn(variant.isa, buffers.qkv.view().dtype())),
      scratch_("scratch", ScratchBytesOn(variant, buffers.qkv)),
      ctx_{Device::kCpu, variant.num_threads, &scratch_} {}

void AttentionWorkload::Forward() {
  const ScopedIsa scope(variant_.isa);
  kernels::SepAttentionForward(ctx_, {.qkv = buffers_.qkv,
                                      .index = &index_,
                                      .window = variant_.window,
                                      .out = buffers_.out,
                                      .lse = buffers_.lse});
}

void AttentionWorkload::Backward() {
  const ScopedIsa scope(variant_.isa);
  kernels::SepAttentionBackward(ctx_, {.qkv = buffers_.qkv,
                                       .index = &index_,
                                       .window = variant_.window,
                                       .out = buffers_.out,
                                       .lse = buffers_.lse,
                                       .dout = buffers_.dout,
                                       .dqkv = buffers_.dqkv});
}

double AttentionWorkload::Verify() {
  Forward();
  Backward();
  const double error = WorstAttentionError({.qkv = buffers_.qkv,
                                            .out = buffers_.out,
                                            .lse = buffers_.lse,
                                            .dout = buffers_.dout,
                                            .dqkv = buffers_.dqkv},
                                           index_, variant_.window);
  const double limit =
      AttentionErrorLimit(buffers_.qkv.view().dtype(), code_isa() >= Isa::kAvx512Bf16);
  CHECK(error <= limit, "attention on {} differs from the reference by {:g} > {:g}", isa_name_,
        error, limit);
  return error;
}

Isa AttentionWorkload::code_isa() const {
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (isa_name_ == kernels::cpu::IsaName(isa)) return isa;
  }
  return Isa::kAvx2;
}

}  // namespace sepia::tools
