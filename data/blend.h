// Blending several datasets: GPT-NeoX v1.0's rules, to the last rounding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sepia::data {

// weights / their sum.
std::vector<double> NormalizedWeights(std::span<const double> weights);

// Samples to prepare of each dataset: ceil(num_samples * weight * 1.005), as
// get_normalized_weights_and_num_samples. `weights` are normalised.
std::vector<int64_t> SamplesPerDataset(std::span<const double> weights, int64_t num_samples);

// Weights from numbers of documents (weights_by_num_docs): with p_i the share of documents and
// q_i = p_i^alpha normalised, w_i is proportional to q_i * (1 - p_i). One dataset has weight 1.
std::vector<double> WeightsByNumDocuments(std::span<const int64_t> num_documents, double alpha);

// Sample s of a blend comes from the dataset d with the largest w_d * max(s, 1) - count_d, the
// first of equals; count_d samples have come from it before (helpers.cpp: build_blending_indices).
// Product and difference are rounded one after the other: fused, other datasets win ties.
//
// Keeps one byte a sample; a dataset's sample number is recounted from the nearest checkpoint.
class BlendOrder {
 public:
  struct Source {
    int64_t dataset = 0;
    int64_t sample = 0;
  };

  static constexpr int64_t kMaxDatasets = 254;  // GPT-NeoX's limit

  // `weights`: any positive scale; at most kMaxDatasets.
  BlendOrder(std::span<const double> weights, int64_t size);

  int64_t size() const { return size_; }
  Source At(int64_t s) const;

 private:
  static constexpr int64_t kCheckpointEvery = 4096;

  size_t num_datasets_;
  int64_t size_;
  std::vector<uint8_t> dataset_;      // [size]; empty for a single dataset
  std::vector<int64_t> checkpoints_;  // [size / kCheckpointEvery + 1, num_datasets]
};

}  // namespace sepia::data
