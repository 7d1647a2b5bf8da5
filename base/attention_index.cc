#include "base/attention_index.h"

#include <algorithm>

#include "base/check.h"

namespace sepia {
namespace {

// Separator membership by table: token ids are small and dense.
std::vector<char> SeparatorTable(const AttentionIndexSpec& spec) {
  std::vector<char> table;
  if (spec.kind != AttentionKind::kSep) return table;
  for (const int32_t id : spec.separator_ids) {
    CHECK_GE(id, 0);
    if (static_cast<size_t>(id) >= table.size()) table.resize(static_cast<size_t>(id) + 1);
    table[static_cast<size_t>(id)] = 1;
  }
  return table;
}

}  // namespace

AttentionIndex::AttentionIndex(std::span<const int32_t> tokens, int64_t batch_size,
                               int64_t seq_length, const AttentionIndexSpec& spec)
    : batch_size_(batch_size), seq_length_(seq_length) {
  CHECK_EQ(static_cast<int64_t>(tokens.size()), batch_size * seq_length);
  CHECK(spec.kind != AttentionKind::kFixedStride || spec.stride > 0, "stride must be positive");
  const std::vector<char> is_separator = SeparatorTable(spec);
  const auto far_visible = [&](int32_t j, int32_t token) {
    if (spec.kind == AttentionKind::kFull) return false;
    if (j < spec.num_initial) return true;
    if (spec.kind == AttentionKind::kFixedStride) return j % spec.stride == 0;
    const auto id = static_cast<size_t>(token);
    return token >= 0 && id < is_separator.size() && is_separator[id] != 0;
  };

  count_.resize(tokens.size());
  inverse_.assign(tokens.size(), -1);
  offsets_.push_back(0);
  for (int64_t row = 0; row < batch_size; ++row) {
    int32_t packed = 0;
    for (int32_t j = 0; j < seq_length; ++j) {
      const auto at = static_cast<size_t>(row * seq_length + j);
      if (far_visible(j, tokens[at])) {
        inverse_[at] = packed++;
        positions_.push_back(j);
      }
      count_[at] = packed;
    }
    offsets_.push_back(static_cast<int64_t>(positions_.size()));
    max_packed_ = std::max<int64_t>(max_packed_, packed);
  }
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
