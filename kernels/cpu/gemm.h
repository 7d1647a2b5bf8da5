// Matrix products on all threads, the same bits for any number of them: the result is cut into
// tiles, and long sums into parts, by the shape alone; each piece is one single-threaded product of
// the backend (gemm_tile.h), and parts are added in order.
#pragma once

#include <cstdint>
#include <string>

#include "base/tensor.h"
#include "kernels/context.h"
#include "kernels/cpu/gemm_tile.h"

namespace sepia::kernels::cpu {

// c = a b + bias, or c += a b + bias: sums in fp32, one rounding to c's dtype.
struct GemmArgs {
  MatrixRef a;           // [m, k] of `dtype`
  MatrixRef b;           // [k, n] of `dtype`
  DType dtype;           // f32, bf16 or f16
  int64_t k;             // 0: the product is zero
  ConstTensorView bias;  // [n] f32, bf16 or f16, or empty
  TensorView c;          // [m, n] f32, bf16 or f16; aliases no input
  GradMode mode;
};
void Gemm(Context& ctx, const GemmArgs& args);

// Scratch that Gemm takes from ctx.scratch for a product of this shape, with operands of `dtype`.
int64_t GemmScratchBytes(int64_t m, int64_t n, int64_t k, DType dtype, DType c_dtype,
                         int num_threads);

// "amx" or that of TileBackendName: what multiplies operands of `dtype`.
std::string GemmBackendName(DType dtype);

}  // namespace sepia::kernels::cpu
