#include "tools/sepia/linear_workload.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/check.h"
#include "base/integer.h"
#include "kernels/linear.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/random_tensor.h"

namespace sepia::tools {
namespace {

// One sum of products: element [row, column] of a result is sum over p of left * right.
struct Product {
  const char* name;
  ConstTensorView result;
  int64_t depth;
  std::function<double(int64_t row, int64_t p)> left;
  std::function<double(int64_t column, int64_t p)> right;
};

// Elements spread over all of the result, against sums in double: fp32 sums of `depth` terms are
// within (depth + 2) 2^-24 of the sum of magnitudes, and the result rounds once more.
void CheckProduct(const Product& product) {
  constexpr int64_t kSamples = 2048;
  const double rounding = product.result.dtype() == DType::kBFloat16  ? 0x1p-8
                          : product.result.dtype() == DType::kFloat16 ? 0x1p-11
                                                                      : 0x1p-24;
  const OwnedTensor values = Widened(product.result);
  const int64_t size = product.result.num_elements();
  const int64_t columns = product.result.dim(1);
  const int64_t step = std::max<int64_t>(1, size / kSamples) | 1;
  for (int64_t i = 0; i < size; i += step) {
    double sum = 0;
    double magnitude = 0;
    for (int64_t p = 0; p < product.depth; ++p) {
      const double term = product.left(i / columns, p) * product.right(i % columns, p);
      sum += term;
      magnitude += std::abs(term);
    }
    const double bound = static_cast<double>(product.depth + 2) * 0x1p-24 * magnitude +
                         rounding * (std::abs(sum) + magnitude * 1e-4);
    const double error = std::abs(static_cast<double>(values.data<float>()[i]) - sum);
    CHECK(error <= bound, "{} [{}, {}] is wrong by {:g} > {:g}", product.name, i / columns,
          i % columns, error, bound);
  }
}

}  // namespace

std::vector<LinearLayer> LinearLayersOfStep(const model::ModelConfig& config, int64_t num_tokens) {
  const int64_t c = config.hidden_size;
  const int64_t f = config.intermediate_size;
  const int64_t layers = config.num_layers;
  const int64_t pieces = (num_tokens + 1023) / 1024;
  const int64_t piece = CeilDiv(num_tokens, pieces);
  return {{"query_key_value", num_tokens, 3 * c, c, layers},
          {"attention.dense", num_tokens, c, c, layers},
          {"dense_h_to_4h", num_tokens, f, c, layers},
          {"dense_4h_to_h", num_tokens, c, f, layers},
          {"embed_out", piece, config.vocab_size, c, pieces}};
}

LinearWorkload::LinearWorkload(const LinearLayer& layer, DType dtype, int num_threads)
    : layer_(layer),
      x_(RandomTensor("x", dtype, {layer.m, layer.k})),
      w_(RandomTensor("w", dtype, {layer.n, layer.k})),
      y_(dtype, {layer.m, layer.n}),
      dy_(RandomTensor("dy", dtype, {layer.m, layer.n})),
      dx_(dtype, {layer.m, layer.k}),
      dw_(DType::kFloat32, {layer.n, layer.k}),
      weight_{.canonical = w_},
      scratch_("scratch",
               kernels::LinearScratchBytes(layer.m, layer.n, layer.k, dtype, num_threads)),
      ctx_{Device::kCpu, num_threads, nullptr} {}

void LinearWorkload::Forward() {
  ctx_.scratch = &scratch_;  // here, not once: a workload may be moved
  kernels::LinearForward(ctx_, {.x = x_, .weight = weight_, .bias = {}, .y = y_});
}

void LinearWorkload::Backward() {
  ctx_.scratch = &scratch_;
  kernels::LinearBackward(ctx_, {.x = x_,
                                 .weight = weight_,
                                 .dy = dy_,
                                 .dx = dx_,
                                 .dweight = dw_,
                                 .dbias = {},
                                 .grad_mode = GradMode::kOverwrite});
}

void LinearWorkload::Verify() {
  Forward();
  Backward();
  const OwnedTensor x = Widened(x_), w = Widened(w_), dy = Widened(dy_);
  const auto element = [](const OwnedTensor& tensor, int64_t row, int64_t column) {
    return static_cast<double>(tensor.data<float>()[row * tensor.view().dim(1) + column]);
  };
  CheckProduct({"y", y_, layer_.k, [&](int64_t row, int64_t p) { return element(x, row, p); },
                [&](int64_t column, int64_t p) { return element(w, column, p); }});
  CheckProduct({"dx", dx_, layer_.n, [&](int64_t row, int64_t p) { return element(dy, row, p); },
                [&](int64_t column, int64_t p) { return element(w, p, column); }});
  CheckProduct({"dW", dw_, layer_.m, [&](int64_t row, int64_t p) { return element(dy, p, row); },
                [&](int64_t column, int64_t p) { return element(x, p, column); }});
}

int64_t LinearWorkload::TouchedBytes() const {
  // x and W go into two products each, dy into two; y, dx and dW are written once.
  return 2 * (x_.view().num_bytes() + w_.view().num_bytes() + dy_.view().num_bytes()) +
         y_.view().num_bytes() + dx_.view().num_bytes() + dw_.view().num_bytes();
}

StepProducts::StepProducts(const model::ModelConfig& config, int64_t num_tokens, DType dtype,
                           int num_threads) {
  for (const LinearLayer& layer : LinearLayersOfStep(config, num_tokens)) {
    layers_.emplace_back(layer, dtype, num_threads);
    layers_.back().Forward();  // touches the pages, fills the caches of the products
    layers_.back().Backward();
  }
  seconds_.resize(layers_.size());
}

void StepProducts::MeasureOnce() {
  for (size_t i = 0; i < layers_.size(); ++i) {
    seconds_[i].push_back(TimeOnce([&] {
      layers_[i].Forward();
      layers_[i].Backward();
    }));
  }
}

double StepProducts::Gflops() const {
  double flops = 0;
  double seconds = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto count = static_cast<double>(layers_[i].layer().count);
    flops += count * 3 * layers_[i].layer().forward_flops();
    seconds += count * Summarize(seconds_[i]).median;
  }
  return flops / seconds / 1e9;
}

}  // namespace sepia::tools
