// Ops of a training step around the matrix products: embedding, rotary embedding, softmax and loss
// of the LM head. Formulas are those of kernels/embedding.h, rotary.h and lm_head.h; here arguments
// are plain device pointers, so that nvcc reads this header quickly. Each call only enqueues; sums
// run in an order fixed by the shape.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

// Tokens of other parts of the vocabulary, outside [first, first + vocab_rows), give zeros and take
// no gradient.
struct EmbeddingParams {
  DType dtype;  // of table, y, dy
  int64_t places, columns;
  int64_t first, vocab_rows;
  const int32_t* tokens;  // [places]
  const void* table;      // [vocab_rows, columns]; forward
  void* y;                // [places, columns]; forward
  const void* dy = nullptr;
  float* dtable = nullptr;
  bool add = false;        // dtable += rather than =
  uint64_t* keys[2] = {};  // scratch: [places] each
};
void EmbeddingForward(Stream& stream, const EmbeddingParams& params);
// Sorts places by token (merging, no atomics), then adds each token's rows in order of place.
void EmbeddingBackward(Stream& stream, const EmbeddingParams& params);

struct RotaryParams {
  DType dtype;
  int64_t rows, seq_length;  // rows of [B, T]
  int64_t num_heads, head_dim, half;
  void* qkv;  // [rows, num_heads, 3, head_dim], in place
  const float* cos;
  const float* sin;  // [>= seq_length, half]
  bool backward;
};
void Rotate(Stream& stream, const RotaryParams& params);

// A row of logits, or its part of the vocabulary, in three numbers, as all parts exchange them.
struct RowStatistics {
  double max;           // largest logit
  double sum;           // of exp(logit - max); NaN if any logit is
  double target_logit;  // zero when the target is in another part
};

struct SoftmaxLossParams {
  DType dtype;  // of the gradient
  int64_t rows, columns;
  float* logits;  // [rows, columns]; a row's gradient, in dtype, takes the place of its logits
  const int32_t* targets;    // [rows]
  const uint8_t* loss_mask;  // [rows] or null
  int64_t first;             // token of column 0
  RowStatistics* own;        // [rows]
  const RowStatistics* all;  // [num_parts, rows]; `own` when there is one part
  int num_parts;
  double* losses;           // [rows]
  const float* grad_scale;  // null: no gradients
};
// Logits into `own`.
void RowStatisticsOf(Stream& stream, const SoftmaxLossParams& params);
// `all` into losses and gradients.
void SoftmaxLoss(Stream& stream, const SoftmaxLossParams& params);
// sum (+)= the losses in order of the rows, by 128 in turn.
void SumLosses(Stream& stream, const double* losses, int64_t rows, double* sum, bool add);

}  // namespace sepia::kernels::cuda
