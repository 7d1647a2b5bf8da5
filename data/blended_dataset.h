// Several datasets mixed by weight (GPT-NeoX's BlendableDataset).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/blend.h"
#include "data/dataset.h"

namespace sepia::data {

// As long as its parts together. A part may be asked for more samples than it has, and answers by
// its own rule; from length() on, k is taken modulo length().
class BlendedDataset : public Dataset {
 public:
  // One weight a part. Throws UserError when all parts are empty.
  BlendedDataset(std::vector<std::shared_ptr<const Dataset>> parts, std::vector<double> weights);

  int64_t seq_length() const override { return parts_.front()->seq_length(); }
  int64_t length() const override { return order_.size(); }
  int64_t SamplesPerPass(int64_t global_batch) const override;
  void Sample(int64_t k, std::span<int32_t> tokens) const override;
  TokenPlace Place(int64_t k, int64_t position) const override;
  std::string Fingerprint() const override;
  std::string Describe() const override;

 private:
  std::vector<std::shared_ptr<const Dataset>> parts_;
  std::vector<double> weights_;
  BlendOrder order_;
};

}  // namespace sepia::data
