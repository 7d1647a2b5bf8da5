// y = x W^T + b and its gradients. W is [N, K] = [out, in], as in NeoX and torch.nn.Linear.
//
// Dtypes: x, W, bias, y, dy, dx in the compute dtype (f32, bf16, f16); products accumulate in fp32
// and round once; dweight and dbias are fp32. M = rows (B*T). Results are the same bits for any
// number of threads: M x N is cut into tiles by the shape alone and each tile is one
// single-threaded product (DESIGN section 6). Throws InternalError on shape or dtype mismatch.
#pragma once

#include "base/tensor.h"
#include "kernels/context.h"
#include "kernels/weight.h"

namespace sepia::kernels {

struct LinearForwardArgs {
  ConstTensorView x;     // [M, K]
  const Weight& weight;  // [N, K]
  ConstTensorView bias;  // [N] or empty
  TensorView y;          // [M, N]
  // kAccumulate: y += x W^T (+ b), one rounding of the fp32 sum.
  GradMode mode = GradMode::kOverwrite;
};
void LinearForward(Context& ctx, const LinearForwardArgs& args);

// Undoes y = x W^T + b: dx = dy W; dW (+)= dy^T x; db (+)= column sums of dy.
struct LinearBackwardArgs {
  ConstTensorView x;     // [M, K], as in forward
  const Weight& weight;  // [N, K]
  ConstTensorView dy;    // [M, N]
  TensorView dx;         // [M, K] or empty: not needed
  TensorView dweight;    // [N, K] fp32, or empty: taken by another call
  TensorView dbias;      // [N] fp32 or empty: no bias, or its gradient is taken elsewhere
  GradMode dx_mode = GradMode::kOverwrite;
  GradMode grad_mode;  // of dweight and dbias
};
void LinearBackward(Context& ctx, const LinearBackwardArgs& args);

// Scratch that either call takes from ctx.scratch at most, for an [M, K] input and [N, K] weight.
int64_t LinearScratchBytes(int64_t m, int64_t n, int64_t k, DType dtype, int num_threads,
                           Device device = Device::kCpu);

// "onednn 2.6.3 avx512_core_amx" or "own avx2": for the header block and doctor.
const char* LinearBackendName(DType dtype);

namespace cpu {  // arguments are checked already
void LinearForward(Context& ctx, const LinearForwardArgs& args);
void LinearBackward(Context& ctx, const LinearBackwardArgs& args);
int64_t LinearScratchBytes(int64_t m, int64_t n, int64_t k, DType dtype, int num_threads);
}  // namespace cpu

}  // namespace sepia::kernels
