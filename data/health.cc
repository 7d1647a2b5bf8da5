#include "data/health.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/error.h"

namespace sepia::data {
namespace {

constexpr int64_t kPieceTokens = int64_t{1} << 18;

void ExamineLengths(const IndexedDataset& dataset, DatasetHealth& health) {
  const int64_t sequences = dataset.num_sequences();
  if (sequences == 0) return;
  health.shortest = std::numeric_limits<int32_t>::max();
  for (int64_t i = 0; i < sequences; ++i) {
    const int32_t length = dataset.size(i);
    health.shortest = std::min(health.shortest, length);
    health.longest = std::max(health.longest, length);
    if (length == 0) {
      ++health.empty_sequences;
    } else {
      ++health
            .length_counts[static_cast<size_t>(std::bit_width(static_cast<uint32_t>(length)) - 1)];
    }
  }
  health.mean_length = static_cast<double>(dataset.num_tokens()) / static_cast<double>(sequences);
}

// Counts tokens as they stream past.
class TokenCounter {
 public:
  TokenCounter(const IndexedDataset& dataset, const HealthOptions& options, DatasetHealth& health)
      : dataset_(dataset), options_(options), health_(health) {
    for (const int32_t id : options.separator_ids) {
      if (id < 0) throw UserError(fmt::format("separator id {} is negative", id));
      const auto index = static_cast<size_t>(id);
      if (index >= is_separator_.size()) is_separator_.resize(index + 1);
      is_separator_[index] = 1;
    }
    health_.min_id = std::numeric_limits<int32_t>::max();
  }

  void Count(int64_t begin, std::span<const int32_t> tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int32_t id = tokens[i];
      health_.min_id = std::min(health_.min_id, id);
      health_.max_id = std::max(health_.max_id, id);
      health_.eod_tokens += id == options_.eod_id;
      const auto index = static_cast<size_t>(id);
      health_.separator_tokens += index < is_separator_.size() && is_separator_[index] != 0;
    }
    if (options_.vocab_size > 0 && health_.max_id >= options_.vocab_size) Refuse(begin, tokens);
    CountEnds(begin, tokens);
  }

 private:
  void CountEnds(int64_t begin, std::span<const int32_t> tokens) {
    const int64_t end = begin + static_cast<int64_t>(tokens.size());
    for (; sequence_ < dataset_.num_sequences(); ++sequence_) {
      const int64_t size = dataset_.size(sequence_);
      const int64_t last = dataset_.first_token(sequence_) + size - 1;
      if (size == 0) continue;
      if (last >= end) return;
      health_.sequences_ending_with_eod +=
          tokens[static_cast<size_t>(last - begin)] == options_.eod_id;
    }
  }

  [[noreturn]] void Refuse(int64_t begin, std::span<const int32_t> tokens) const {
    const auto bad = std::find_if(tokens.begin(), tokens.end(),
                                  [this](int32_t id) { return id >= options_.vocab_size; });
    const TokenPlace place = dataset_.StreamPlace(begin + (bad - tokens.begin()));
    throw BadData(place.file, place.byte_offset,
                  fmt::format("token id {} in document {}, but the vocabulary has {} entries", *bad,
                              place.sequence, options_.vocab_size));
  }

  const IndexedDataset& dataset_;
  const HealthOptions& options_;
  DatasetHealth& health_;
  std::vector<uint8_t> is_separator_;
  int64_t sequence_ = 0;  // the first whose last token has not been seen
};

}  // namespace

DatasetHealth ExamineDataset(const IndexedDataset& dataset, const HealthOptions& options,
                             const Progress& progress) {
  DatasetHealth health;
  ExamineLengths(dataset, health);
  TokenCounter counter(dataset, options, health);
  std::vector<int32_t> tokens;
  for (int64_t begin = 0; begin < dataset.num_tokens(); begin += kPieceTokens) {
    tokens.resize(static_cast<size_t>(std::min(kPieceTokens, dataset.num_tokens() - begin)));
    dataset.ReadStream(begin, tokens);
    counter.Count(begin, tokens);
    progress(std::min(begin + kPieceTokens, dataset.num_tokens()) * DTypeSize(dataset.dtype()));
  }
  if (dataset.num_tokens() == 0) health.min_id = 0;
  return health;
}

}  // namespace sepia::data
