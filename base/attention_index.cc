#include "base/attention_index.h"

#include <algorithm>

#include "base/check.h"

namespace sepia {

FarVisibility::FarVisibility(const AttentionIndexSpec& spec)
    : kind_(spec.kind), num_initial_(spec.num_initial), stride_(spec.stride) {
  CHECK(kind_ != AttentionKind::kFixedStride || stride_ > 0, "stride must be positive");
  if (kind_ != AttentionKind::kSep) return;
  for (const int32_t id : spec.separator_ids) {
    CHECK_GE(id, 0);
    if (static_cast<size_t>(id) >= is_separator_.size()) {
      is_separator_.resize(static_cast<size_t>(id) + 1);
    }
    is_separator_[static_cast<size_t>(id)] = 1;
  }
}

bool FarVisibility::operator()(int64_t position, int32_t token) const {
  if (kind_ == AttentionKind::kFull) return false;
  if (position < num_initial_) return true;
  if (kind_ == AttentionKind::kFixedStride) return position % stride_ == 0;
  const auto id = static_cast<size_t>(token);
  return token >= 0 && id < is_separator_.size() && is_separator_[id] != 0;
}

AttentionIndex::AttentionIndex(int64_t batch_size)
    : batch_size_(batch_size), offsets_(static_cast<size_t>(batch_size) + 1) {}

AttentionIndex::AttentionIndex(std::span<const int32_t> tokens, int64_t batch_size,
                               int64_t seq_length, const AttentionIndexSpec& spec)
    : AttentionIndex(batch_size) {
  CHECK_EQ(static_cast<int64_t>(tokens.size()), batch_size * seq_length);
  const FarVisibility far_visible(spec);
  seq_length_ = seq_length;
  count_.reserve(tokens.size());
  inverse_.reserve(tokens.size());
  const auto row_size = static_cast<size_t>(seq_length);
  for (int64_t row = 0; row < batch_size; ++row) {
    ExtendRow(row, 0, tokens.subspan(static_cast<size_t>(row) * row_size, row_size), far_visible);
  }
}

void AttentionIndex::ExtendRow(int64_t row, int64_t begin, std::span<const int32_t> tokens,
                               const FarVisibility& far_visible) {
  const int64_t row_begin = offsets_[static_cast<size_t>(row)];
  const auto packed = [&] {
    return static_cast<int32_t>(static_cast<int64_t>(positions_.size()) - row_begin);
  };
  int64_t position = begin;
  for (const int32_t token : tokens) {
    const bool is_far = far_visible(position, token);
    inverse_.push_back(is_far ? packed() : -1);
    if (is_far) positions_.push_back(static_cast<int32_t>(position));
    count_.push_back(packed());
    ++position;
  }
  offsets_[static_cast<size_t>(row) + 1] = static_cast<int64_t>(positions_.size());
  device_copy_.reset();
  max_packed_ = std::max<int64_t>(max_packed_, packed());
}

GrowingAttentionIndex::GrowingAttentionIndex(const AttentionIndexSpec& spec, int64_t max_length)
    : far_visible_(spec), index_(/*batch_size=*/1) {
  const auto size = static_cast<size_t>(max_length);
  index_.positions_.reserve(size);
  index_.count_.reserve(size);
  index_.inverse_.reserve(size);
}

void GrowingAttentionIndex::Append(std::span<const int32_t> tokens) {
  index_.ExtendRow(0, index_.seq_length_, tokens, far_visible_);
  index_.seq_length_ += static_cast<int64_t>(tokens.size());
}

int64_t AttentionIndex::VisiblePairs(int64_t window) const {
  int64_t pairs = 0;
  for (int64_t row = 0; row < batch_size_; ++row) {
    const std::span<const int32_t> packed = count(row);
    for (int64_t i = 0; i < seq_length_; ++i) {
      pairs += std::min(window, i + 1);
      if (i >= window) pairs += packed[static_cast<size_t>(i - window)];
    }
  }
  return pairs;
}

AttentionIndexes BuildAttentionIndexes(std::span<const int32_t> tokens, int64_t batch_size,
                                       int64_t seq_length,
                                       std::span<const AttentionIndexSpec> specs) {
  AttentionIndexes indexes;
  for (const AttentionIndexSpec& spec : specs) {
    indexes.push_back(std::make_shared<const AttentionIndex>(tokens, batch_size, seq_length, spec));
  }
  return indexes;
}

}  // namespace sepia
