// The matrix products of a training step, one linear layer at a time: what `bench gemm` measures,
// and what the MFU of `bench step` is a share of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "kernels/context.h"
#include "kernels/weight.h"
#include "model/model_config.h"

namespace sepia::tools {

// y [M, N] = x [M, K] W^T, and its two gradients.
struct LinearLayer {
  std::string name;
  int64_t m, n, k;
  int64_t count = 1;  // times in one step

  double forward_flops() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
};

// Of one step on `num_tokens` tokens. The head appears as pieces of at most 1024 rows: logits of a
// whole batch never exist.
std::vector<LinearLayer> LinearLayersOfStep(const model::ModelConfig& config, int64_t num_tokens);

class LinearWorkload {
 public:
  LinearWorkload(const LinearLayer& layer, DType dtype, int num_threads);

  const LinearLayer& layer() const { return layer_; }
  void Forward();
  void Backward();  // dx and dW, without the bias's

  // Throws when a sampled element of y, dx or dW differs from sums in double. Runs both first.
  void Verify();

  // What forward and backward read and write at least.
  int64_t TouchedBytes() const;

 private:
  LinearLayer layer_;
  OwnedTensor x_, w_, y_, dy_, dx_, dw_;
  kernels::Weight weight_;
  Arena scratch_;
  kernels::Context ctx_;
};

// Rate of all products of a step together: every layer timed in turn with whatever else runs, and
// the medians added up as often as the step does each.
class StepProducts {
 public:
  StepProducts(const model::ModelConfig& config, int64_t num_tokens, DType dtype, int num_threads);

  void MeasureOnce();
  // 1e9 operations a second. After at least one MeasureOnce.
  double Gflops() const;

 private:
  std::vector<LinearWorkload> layers_;
  std::vector<std::vector<double>> seconds_;  // [layer][measurement], forward and backward
};

}  // namespace sepia::tools
