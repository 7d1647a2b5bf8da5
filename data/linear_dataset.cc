#include "data/linear_dataset.h"

#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/sha256.h"
#include "data/dataset_digest.h"

namespace sepia::data {

LinearDataset::LinearDataset(std::shared_ptr<const IndexedDataset> dataset, int64_t first_sequence,
                             int64_t end_sequence, int64_t seq_length)
    : dataset_(std::move(dataset)), seq_length_(seq_length) {
  const auto token_at = [this](int64_t sequence) {
    return sequence == dataset_->num_sequences() ? dataset_->num_tokens()
                                                 : dataset_->first_token(sequence);
  };
  first_token_ = token_at(first_sequence);
  num_tokens_ = token_at(end_sequence) - first_token_;
  num_items_ = num_tokens_ / (seq_length + 1);
  if (num_items_ == 0) {
    throw BadData(
        dataset_->idx_path(), -1,
        fmt::format("{} tokens do not fill one sample of {} + 1", num_tokens_, seq_length),
        "choose a smaller sequence_length, or more data");
  }
}

void LinearDataset::Sample(int64_t k, std::span<int32_t> tokens) const {
  CHECK_GE(k, 0);
  CHECK_EQ(static_cast<int64_t>(tokens.size()), seq_length_ + 1);
  dataset_->ReadStream(FirstToken(k), tokens);
}

TokenPlace LinearDataset::Place(int64_t k, int64_t position) const {
  CHECK(position >= 0 && position <= seq_length_, "token {} of a sample", position);
  return dataset_->StreamPlace(FirstToken(k) + position);
}

std::string LinearDataset::Fingerprint() const {
  return Sha256Hex(fmt::format("linear 1\n{}\ntokens {} {} T {}\n", DatasetDigest(*dataset_),
                               first_token_, num_tokens_, seq_length_));
}

std::string LinearDataset::Describe() const {
  return fmt::format("{}: {} samples of {} + 1 tokens in file order, {} tokens left over",
                     dataset_->prefix(), num_items_, seq_length_,
                     num_tokens_ - num_items_ * (seq_length_ + 1));
}

}  // namespace sepia::data
