// The matrix-product backend: one single-threaded product at a time. gemm.h cuts big products into
// these. Implemented by gemm_onednn.cc, or by gemm_own.cc alone where oneDNN is absent (chosen in
// CMakeLists.txt).
#pragma once

#include <cstdint>
#include <string>

#include "base/dtype.h"

namespace sepia::kernels::cpu {

// Element (i, j) lies at data + i * row_stride + j * col_stride (in elements); one stride is 1.
struct MatrixRef {
  const void* data;
  int64_t row_stride;
  int64_t col_stride;

  MatrixRef Transposed() const { return {data, col_stride, row_stride}; }
};

// c (+)= a b with a [m, k], b [k, n] and every sum in fp32. m, n, k >= 1.
struct TileProduct {
  int64_t m, n, k;
  DType dtype;  // of a and b: f32, bf16 or f16
  MatrixRef a;
  MatrixRef b;
  float* c;  // rows c_row_stride floats apart
  int64_t c_row_stride;
  bool accumulate;  // add to c instead of overwriting it
};

// Thread-safe. The bits of c depend on the fields of `product` and the machine, on nothing else.
void MultiplyTile(const TileProduct& product);

// "onednn 2.6.3 avx512_core_amx", "own avx2".
std::string TileBackendName(DType dtype);

}  // namespace sepia::kernels::cpu
