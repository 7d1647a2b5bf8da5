#include "checkpoint/comparison.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>

#include <fmt/format.h>

namespace sepia::checkpoint {
namespace {

constexpr int64_t kBlockElements = 4 << 20;

// Floats as integers in the order of their values: neighbours differ by 1, -0 equals +0.
int64_t Ordinal(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto magnitude = static_cast<int64_t>(bits & 0x7fffffffu);
  return (bits >> 31) != 0 ? -magnitude : magnitude;
}

Difference CompareTensor(const ModelSource& a, const ModelSource& b, const SourceTensor& tensor,
                         Role role) {
  Difference difference;
  std::vector<float> values_a;
  std::vector<float> values_b;
  for (const Rectangle& part : SplitContiguously(Rectangle::Whole(tensor.shape), kBlockElements)) {
    values_a.resize(static_cast<size_t>(part.num_elements()));
    values_b.resize(values_a.size());
    a.ReadPart(tensor.name, part, TensorView::Of(std::span(values_a), part.extent), role);
    b.ReadPart(tensor.name, part, TensorView::Of(std::span(values_b), part.extent), role);
    Compare(values_a, values_b, &difference);
  }
  return difference;
}

}  // namespace

TensorStatistics ComputeStatistics(const ModelSource& source, const SourceTensor& tensor,
                                   Role role) {
  TensorStatistics result;
  double sum_of_squares = 0;
  int64_t finite = 0;
  std::vector<float> values;
  for (const Rectangle& part : SplitContiguously(Rectangle::Whole(tensor.shape), kBlockElements)) {
    values.resize(static_cast<size_t>(part.num_elements()));
    source.ReadPart(tensor.name, part, TensorView::Of(std::span(values), part.extent), role);
    for (const float stored : values) {
      result.nans += std::isnan(stored);
      result.infinities += std::isinf(stored);
      if (!std::isfinite(stored)) continue;
      const double value = stored;
      result.min = finite == 0 ? value : std::min(result.min, value);
      result.max = finite == 0 ? value : std::max(result.max, value);
      sum_of_squares += value * value;
      ++finite;
    }
  }
  if (finite > 0) result.rms = std::sqrt(sum_of_squares / static_cast<double>(finite));
  return result;
}

void Compare(std::span<const float> a, std::span<const float> b, Difference* difference) {
  CHECK_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i])) continue;
    ++difference->elements;
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    const int64_t ulp = std::isnan(a[i]) || std::isnan(b[i])
                            ? std::numeric_limits<int64_t>::max()
                            : std::abs(Ordinal(a[i]) - Ordinal(b[i]));
    difference->max_ulp = std::max(difference->max_ulp, ulp);
    if (std::isfinite(a[i]) && std::isfinite(b[i])) {
      difference->max_absolute =
          std::max(difference->max_absolute,
                   std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    }
  }
}

std::vector<TensorDifference> CompareSources(const ModelSource& a, const ModelSource& b) {
  std::map<std::string, std::pair<const SourceTensor*, const SourceTensor*>> pairs;
  for (const SourceTensor& tensor : a.tensors()) pairs[tensor.name].first = &tensor;
  for (const SourceTensor& tensor : b.tensors()) pairs[tensor.name].second = &tensor;
  std::vector<TensorDifference> differences;
  for (const auto& [name, pair] : pairs) {
    const auto [in_a, in_b] = pair;
    if (in_a == nullptr || in_b == nullptr) {
      differences.push_back({name, Role::kMaster, in_a == nullptr ? "only in B" : "only in A", {}});
      continue;
    }
    if (in_a->shape != in_b->shape) {
      differences.push_back(
          {name, Role::kMaster, fmt::format("shape {} against {}", in_a->shape, in_b->shape), {}});
      continue;
    }
    for (const Role role : {Role::kMaster, Role::kExpAvg, Role::kExpAvgSq}) {
      if (!a.Has(role) || !b.Has(role)) continue;
      const Difference values = CompareTensor(a, b, *in_a, role);
      if (values.elements > 0) differences.push_back({name, role, "", values});
    }
  }
  return differences;
}

}  // namespace sepia::checkpoint
