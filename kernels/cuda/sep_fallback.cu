#include "kernels/cuda/sep_fallback.cuh"

namespace sepia::kernels::cuda {
namespace {

template <void (*kKernel)(SepAttentionParams)>
void LaunchRows(Stream& stream, const SepAttentionParams& p) {
  const int rows = (p.seq_length + kFallbackWarps - 1) / kFallbackWarps;
  Launch(stream,
         {.name = "SepFallback",
          .grid = {static_cast<uint32_t>(p.batch_size * p.num_heads), static_cast<uint32_t>(rows)},
          .block = kFallbackWarps * 32},
         kKernel, p);
}

void Nothing(Stream&, const SepAttentionParams&) {}

// Far keys are read where they lie, and their gradients are made with those of the band.
template <typename Format>
constexpr SepAttentionKernels MakeKernels() {
  return {.padded_dim = 0,
          .pack = &Nothing,
          .forward = &LaunchRows<&FallbackForward<Format>>,
          .row_stats = &LaunchRows<&FallbackRowStats<Format>>,
          .dq = &LaunchRows<&FallbackDq<Format>>,
          .dkv_far = &Nothing,
          .dkv_band = &LaunchRows<&FallbackDkv<Format>>};
}

}  // namespace

extern const SepAttentionKernels kSepFallbackFp32, kSepFallbackBf16, kSepFallbackFp16;
const SepAttentionKernels kSepFallbackFp32 = MakeKernels<Fp32>();
const SepAttentionKernels kSepFallbackBf16 = MakeKernels<Bf16>();
const SepAttentionKernels kSepFallbackFp16 = MakeKernels<Fp16>();

}  // namespace sepia::kernels::cuda
