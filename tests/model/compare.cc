#include "tests/model/compare.h"

#include <algorithm>
#include <cmath>

namespace sepia::testing {
namespace {

// The rows of one of q, k, v from a tensor of rows grouped by head, [H, 3, D] x row_size; only the
// dimensions [begin, end) of each head.
std::vector<float> Part(const model::ModelConfig& config, const std::vector<float>& qkv,
                        int64_t which, int64_t begin, int64_t end) {
  const int64_t D = config.head_dim();
  const int64_t row_size = static_cast<int64_t>(qkv.size()) / (3 * config.hidden_size);
  std::vector<float> part;
  for (int64_t head = 0; head < config.num_heads; ++head) {
    const int64_t row = (head * 3 + which) * D;
    part.insert(part.end(), qkv.begin() + (row + begin) * row_size,
                qkv.begin() + (row + end) * row_size);
  }
  return part;
}

double LargestMagnitude(const std::vector<float>& values) {
  double largest = 0;
  for (const float v : values) largest = std::max(largest, std::abs(static_cast<double>(v)));
  return largest;
}

}  // namespace

double RelativeError(std::span<const float> actual, std::span<const float> expected) {
  CHECK_EQ(actual.size(), expected.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double e = expected[i];
    const double d = static_cast<double>(actual[i]) - e;
    difference += d * d;
    norm += e * e;
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

std::vector<PartError> GradientErrors(const model::ModelConfig& config, const NamedValues& actual,
                                      const NamedValues& expected) {
  CHECK_EQ(actual.size(), expected.size());
  std::vector<PartError> errors;
  const int64_t D = config.head_dim();
  const int64_t rotary = config.rotary_dim();
  for (const auto& [name, want] : expected) {
    const std::vector<float>& got = actual.at(name);
    if (name.find("query_key_value") == std::string::npos) {
      errors.push_back({name, RelativeError(got, want)});
      continue;
    }
    const bool bias = name.ends_with(".bias");
    for (int64_t which = 0; which < 3; ++which) {
      const int64_t end = bias && which == 1 ? rotary : D;
      errors.push_back(
          {name + "[" + "qkv"[which] + "]",
           RelativeError(Part(config, got, which, 0, end), Part(config, want, which, 0, end))});
    }
    if (bias && rotary < D) {
      errors.push_back({name + "[k, unrotated]",
                        LargestMagnitude(Part(config, got, 1, rotary, D)) / LargestMagnitude(want),
                        /*absolute=*/true});
    }
  }
  return errors;
}

}  // namespace sepia::testing
