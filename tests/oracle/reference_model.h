// The whole model once more: in double, one sample at a time, straight from the definitions,
// without any of Sepia's kernels. Slow and obvious; gradients by central differences.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/model_config.h"

namespace sepia::testing {

class ReferenceModel {
 public:
  using Weights = std::map<std::string, std::vector<double>>;  // by Hugging Face name

  ReferenceModel(const model::ModelConfig& config, Weights weights)
      : config_(config), weights_(std::move(weights)) {}

  Weights& weights() { return weights_; }

  // logits [T, V] of one sample.
  std::vector<double> Logits(const std::vector<int32_t>& tokens) const;

  // Sum of the losses of one sample's targets; those with mask 0 are left out (empty: none is).
  double LossSum(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets,
                 const std::vector<uint8_t>& mask) const;

 private:
  using Matrix = std::vector<std::vector<double>>;

  const std::vector<double>& weight(const std::string& name) const { return weights_.at(name); }
  Matrix Linear(const Matrix& x, const std::string& name, bool bias) const;
  Matrix LayerNorm(const Matrix& x, const std::string& name) const;
  Matrix Attention(const Matrix& x, int64_t layer, const std::vector<int32_t>& tokens) const;
  Matrix Mlp(const Matrix& x, int64_t layer) const;

  model::ModelConfig config_;
  Weights weights_;
};

// Whether query i sees key j (DESIGN section 5).
bool IsVisible(const model::LayerAttention& rule, const std::vector<int32_t>& separator_ids,
               const std::vector<int32_t>& tokens, int64_t i, int64_t j);

}  // namespace sepia::testing
