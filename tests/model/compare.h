// Errors of a model's results against others' numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "tests/model/model_under_test.h"

namespace sepia::testing {

// ||actual - expected|| / ||expected||, by L2; the plain norm when `expected` is zero.
double RelativeError(std::span<const float> actual, std::span<const float> expected);

struct PartError {
  std::string part;  // "gpt_neox.layers.0.attention.query_key_value.weight[k]"
  double error = 0;  // relative, unless `absolute`
  bool absolute = false;
};

// Every gradient; the q, k and v rows of qkv tensors apart. Key biases of dimensions that rotary
// leaves alone have a gradient of zero in exact arithmetic (softmax does not feel a constant along
// a row), so these are judged absolutely: their largest magnitude, over the largest of the bias.
std::vector<PartError> GradientErrors(const model::ModelConfig& config, const NamedValues& actual,
                                      const NamedValues& expected);

}  // namespace sepia::testing
