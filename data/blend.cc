#include "data/blend.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace sepia::data {
namespace {

// numpy's sum of doubles, which GPT-NeoX normalises blending weights with: eight running sums for
// up to 128 values, halves beyond (numpy/core/src/umath/loops_utils.h.src, pairwise_sum).
double NumpySum(std::span<const double> values) {
  constexpr size_t kLanes = 8;
  constexpr size_t kBlock = 128;
  const size_t n = values.size();
  if (n < kLanes) return std::accumulate(values.begin(), values.end(), 0.0);
  if (n > kBlock) {
    const size_t half = n / 2 - n / 2 % kLanes;
    return NumpySum(values.first(half)) + NumpySum(values.subspan(half));
  }
  double lane[kLanes];
  std::copy_n(values.begin(), kLanes, lane);
  size_t i = kLanes;
  for (; i < n - n % kLanes; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lane[j] += values[i + j];
  }
  double sum =
      ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  for (; i < n; ++i) sum += values[i];
  return sum;
}

std::vector<double> DividedBy(std::span<const double> values, double divisor) {
  std::vector<double> result(values.begin(), values.end());
  for (double& value : result) value /= divisor;
  return result;
}

// Python's sum(): from left to right.
double LeftToRightSum(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

std::vector<double> NormalizedWeights(std::span<const double> weights) {
  return DividedBy(weights, LeftToRightSum(weights));
}

std::vector<int64_t> SamplesPerDataset(std::span<const double> weights, int64_t num_samples) {
  std::vector<int64_t> samples;
  for (const double weight : weights) {
    samples.push_back(
        static_cast<int64_t>(std::ceil(static_cast<double>(num_samples) * weight * 1.005)));
  }
  return samples;
}

std::vector<double> WeightsByNumDocuments(std::span<const int64_t> num_documents, double alpha) {
  if (num_documents.size() == 1) return {1.0};
  const int64_t total = std::accumulate(num_documents.begin(), num_documents.end(), int64_t{0});
  std::vector<double> shares;
  std::vector<double> powers;
  for (const int64_t count : num_documents) {
    shares.push_back(static_cast<double>(count) / static_cast<double>(total));
    powers.push_back(std::pow(shares.back(), alpha));
  }
  std::vector<double> weights = NormalizedWeights(powers);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] *= 1 - shares[i];
  return NormalizedWeights(weights);
}

BlendOrder::BlendOrder(std::span<const double> weights, int64_t size)
    : num_datasets_(weights.size()), size_(size) {
  CHECK(!weights.empty() && static_cast<int64_t>(weights.size()) <= kMaxDatasets,
        "{} datasets in a blend", weights.size());
  if (num_datasets_ == 1) return;
  const std::vector<double> shares = DividedBy(weights, NumpySum(weights));
  std::vector<int64_t> counts(num_datasets_, 0);
  dataset_.resize(static_cast<size_t>(size));
  for (int64_t s = 0; s < size; ++s) {
    if (s % kCheckpointEvery == 0) {
      checkpoints_.insert(checkpoints_.end(), counts.begin(), counts.end());
    }
    const auto position = static_cast<double>(std::max<int64_t>(s, 1));
    size_t best = 0;
    double largest = shares[0] * position - static_cast<double>(counts[0]);
    for (size_t d = 1; d < num_datasets_; ++d) {
      const double error = shares[d] * position - static_cast<double>(counts[d]);
      if (error > largest) {
        largest = error;
        best = d;
      }
    }
    dataset_[static_cast<size_t>(s)] = static_cast<uint8_t>(best);
    ++counts[best];
  }
}

BlendOrder::Source BlendOrder::At(int64_t s) const {
  CHECK(s >= 0 && s < size(), "sample {} of a blend of {}", s, size());
  if (num_datasets_ == 1) return {.dataset = 0, .sample = s};
  const uint8_t dataset = dataset_[static_cast<size_t>(s)];
  const int64_t checkpoint = s / kCheckpointEvery;
  const auto from = dataset_.begin() + checkpoint * kCheckpointEvery;
  const int64_t before =
      checkpoints_[static_cast<size_t>(checkpoint) * num_datasets_ + size_t{dataset}];
  return {.dataset = dataset, .sample = before + std::count(from, dataset_.begin() + s, dataset)};
}

}  // namespace sepia::data
