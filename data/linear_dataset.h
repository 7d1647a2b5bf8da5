// Samples in file order: the stream of tokens cut into items of T + 1.
#pragma once

#include <memory>
#include <string>

#include "data/dataset.h"

namespace sepia::data {

// The published pre-shuffled Pile is such a stream, with items of 2,049 tokens. Sequence borders do
// not matter; tokens that do not fill an item at the end are left out. Sample k is item k modulo
// the number of items.
class LinearDataset : public Dataset {
 public:
  // Sequences [first, end). Throws kBadData if they do not fill one sample.
  LinearDataset(std::shared_ptr<const IndexedDataset> dataset, int64_t first_sequence,
                int64_t end_sequence, int64_t seq_length);

  int64_t seq_length() const override { return seq_length_; }
  int64_t length() const override { return num_items_; }
  int64_t SamplesPerPass(int64_t) const override { return num_items_; }
  void Sample(int64_t k, std::span<int32_t> tokens) const override;
  TokenPlace Place(int64_t k, int64_t position) const override;
  std::string Fingerprint() const override;
  std::string Describe() const override;

 private:
  int64_t FirstToken(int64_t k) const { return first_token_ + k % num_items_ * (seq_length_ + 1); }

  std::shared_ptr<const IndexedDataset> dataset_;
  int64_t seq_length_;
  int64_t first_token_ = 0;
  int64_t num_tokens_ = 0;
  int64_t num_items_ = 0;
};

}  // namespace sepia::data
