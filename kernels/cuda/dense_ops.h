// The row-wise ops of a training step on a device. Formulas, rounding points and aliasing rules are
// those of kernels/layer_norm.h, gelu.h, elementwise.h and optimizer.h; here arguments are plain
// device pointers, so that nvcc reads this header quickly. Each call only enqueues; sums run in an
// order fixed by the shape.
//
// Column sums (gradients of biases, gamma, beta) take scratch of ColumnSumScratchBytes: a partial
// sum for each kSumRows rows, then those in order.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

inline constexpr int kSumRows = 64;

inline size_t ColumnSumScratchBytes(int64_t rows, int64_t columns) {
  return static_cast<size_t>((rows + kSumRows - 1) / kSumRows * 2 * columns) * sizeof(float);
}

struct LayerNormParams {
  DType dtype;  // of x, gamma, beta, y, dy, dx
  int64_t rows, columns;
  const void* x;
  const void* gamma;
  const void* beta;  // forward
  void* y;           // forward
  float* mean;
  float* rstd;
  float eps;  // forward
  const void* dy = nullptr;
  void* dx = nullptr;
  float* dgamma = nullptr;
  float* dbeta = nullptr;
  bool add_dx = false;     // dx += rather than =
  bool add_grads = false;  // dgamma, dbeta += rather than =
  float* scratch = nullptr;
};
void LayerNormForward(Stream& stream, const LayerNormParams& params);
void LayerNormBackward(Stream& stream, const LayerNormParams& params);

struct BiasGeluParams {
  DType dtype;  // of x, bias, y, dy, dx
  int64_t rows, columns;
  bool use_erf;  // else tanh
  const void* x;
  const void* bias;
  void* y;  // forward
  const void* dy = nullptr;
  void* dx = nullptr;
  float* dbias = nullptr;
  bool add_grads = false;
  float* scratch = nullptr;
};
void BiasGeluForward(Stream& stream, const BiasGeluParams& params);
void BiasGeluBackward(Stream& stream, const BiasGeluParams& params);

struct BiasResidualParams {
  DType dtype;
  int64_t rows, columns;
  const void* x;
  const void* partial;
  const void* bias1;
  const void* bias2;  // or null
  void* y;
};
void AddBiasResidualForward(Stream& stream, const BiasResidualParams& params);

// y = a + b.
void Add(Stream& stream, DType dtype, int64_t size, const void* a, const void* b, void* y);

// Rounds to nearest even.
void Convert(Stream& stream, int64_t size, DType from_dtype, const void* from, DType to_dtype,
             void* to);

// Each of sums (+)= the column sums of x.
struct ColumnSumParams {
  DType dtype;
  int64_t rows, columns;
  const void* x;
  float* sums[2];  // or null
  bool add;
  float* scratch;
};
void SumColumns(Stream& stream, const ColumnSumParams& params);

struct AdamWParams {
  DType weight_dtype;
  int64_t size;
  // kernels/optimizer_state.h.
  void* weight;
  void* master;  // null in fp32
  float* exp_avg;
  float* exp_avg_sq;
  const float* grad;
  const float* grad_multiplier;
  const int32_t* skip;
  float lr, beta1, beta2, eps, weight_decay;
  // Computed in double: 1 - beta loses digits in fp32 when beta is near 1.
  float one_minus_beta1, one_minus_beta2;
  float correction1, correction2;  // 1 - beta^t
};
void AdamWUpdate(Stream& stream, const AdamWParams& params);

// sum (+)= sum of squares, in double. scratch: SquaredNormScratchBytes.
struct SquaredNormParams {
  int64_t size;
  const float* x;
  double* sum;
  bool add;
  double* scratch;
};
inline constexpr int kNormElements = 4096;  // a partial sum
inline size_t SquaredNormScratchBytes(int64_t size) {
  return static_cast<size_t>((size + kNormElements - 1) / kNormElements) * sizeof(double);
}
void SquaredNorm(Stream& stream, const SquaredNormParams& params);

struct ClipFactorParams {
  const double* squared_norm;
  const float* loss_scale;
  double clip;
  double* norm;
  float* grad_multiplier;
  int32_t* skip;
};
void ClipFactor(Stream& stream, const ClipFactorParams& params);

}  // namespace sepia::kernels::cuda
