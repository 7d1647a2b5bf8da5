// Matrix products on the device: a thin layer over cuBLASLt (blas.cc), row-major as all of Sepia.
//
// The same source runs on the emulated device against a stand-in of the library
// (emulation/libraries/cublasLt.h) that computes the same product on the host and refuses what the
// library's documentation refuses. Products accumulate in fp32 and round once; the result of the
// same product is the same bits on one kind of GPU and one version of the library.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/dtype.h"
#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

// What is done to a sum before it is stored, in fp32; GeLU is the tanh form (kernels/gelu.h).
enum class Epilogue : uint8_t {
  kNone,
  kBias,          // out = AB + bias
  kGeluBias,      // out = gelu(AB + bias)
  kGeluBiasAux,   // the same, and aux = AB + bias for backward
  kGeluBackward,  // out = AB * gelu'(aux)
  kBiasGradient,  // out = AB, and bias_gradient[i] = sum over k of A[i, k]
};

// A matrix in device memory; its rows as stored are `stride` elements apart. `transposed`: stored
// as [k, m] (a) or [n, k] (b).
struct MatrixOperand {
  const void* data = nullptr;
  int64_t stride = 0;
  bool transposed = false;
};

// out[m, n] (+)= A[m, k] B[k, n]. All memory is on the device and nothing aliases `out`.
//
// Dtypes: a and b are f32, bf16 or f16; out is theirs or f32; bias, aux and bias_gradient are
// out's. fp32 products are true fp32, not TF32. Elements are aligned to their size; tensor-core
// kernels want 16 bytes for pointers and strides. aux_stride is a multiple of 8.
struct MatrixProduct {
  DType dtype;
  DType out_dtype;
  int64_t m = 0, n = 0, k = 0;
  MatrixOperand a = {}, b = {};
  void* out = nullptr;
  int64_t out_stride = 0;
  bool accumulate = false;  // the old `out` is added to AB before the epilogue
  Epilogue epilogue = Epilogue::kNone;
  const void* bias = nullptr;  // [n]
  void* aux = nullptr;         // [m, n]
  int64_t aux_stride = 0;
  void* bias_gradient = nullptr;  // [m], overwritten
};

// The products of one stream: they share a workspace. The algorithm for a shape is the library's
// first choice when the shape is first met, never changed after; it depends on the sizes, strides,
// dtypes and on whether pointers are aligned to 16 bytes, not on the addresses. Split sums over k
// meet in fp32, in a fixed order.
class Blas {
 public:
  // What NVIDIA recommends for Hopper.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  explicit Blas(size_t workspace_bytes = kWorkspaceBytes, const Where& where = Where::Current());
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // Enqueues the product. m = 0 or n = 0 is no work; k = 0 is refused. Throws DeviceError, before
  // anything is enqueued, for what the library does not do.
  void Multiply(Stream& stream, const MatrixProduct& product,
                const Where& where = Where::Current());

  // Shapes met so far.
  size_t num_algorithms() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "cuBLASLt 13.1.0": for the header block and doctor.
std::string BlasName();

}  // namespace sepia::kernels::cuda
