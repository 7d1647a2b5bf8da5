// Which keys are visible from afar: the packed form of the attention rule.
//
// Query i sees key j iff j <= i and (j is far-visible or i - j < window). Far-visible are the first
// `num_initial` positions and, by kind, the separators (SEP), nothing more (STREAMING), or every
// `stride`-th position (FIXED_STRIDE). Per sequence:
//   positions[p]  the sorted far-visible positions
//   count[i]      #{p : positions[p] <= i}
//   inverse[j]    the p with positions[p] == j, or -1
// Row i of a layer with window n takes the band i - n < j <= i and the packed keys p < far(i),
// where far(i) = i >= n ? count[i - n] : 0. Disjoint and complete; the window is not part of the
// index, so layers with different windows share one.
//
// Rule: SepLLM, arXiv 2412.12094; the authors' build_prefill_mask (HKUDS/SepLLM @f250f59).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace sepia {

enum class AttentionKind : uint8_t { kFull, kSep, kStreaming, kFixedStride };

// Everything about far visibility that does not depend on a layer's window.
struct AttentionIndexSpec {
  AttentionKind kind = AttentionKind::kFull;
  int32_t num_initial = 0;
  int32_t stride = 0;                  // FIXED_STRIDE only
  std::vector<int32_t> separator_ids;  // SEP only

  friend bool operator==(const AttentionIndexSpec&, const AttentionIndexSpec&) = default;
};

// Whether a token at a position is far-visible.
class FarVisibility {
 public:
  explicit FarVisibility(const AttentionIndexSpec& spec);
  bool operator()(int64_t position, int32_t token) const;

 private:
  AttentionKind kind_;
  int32_t num_initial_;
  int32_t stride_;
  std::vector<char> is_separator_;  // by token: ids are small and dense
};

// Immutable once built; shared by all layers and heads of a batch.
class AttentionIndex {
 public:
  // tokens: [B, T] row-major. kFull gives an index without far-visible keys: such layers use a
  // window >= T.
  AttentionIndex(std::span<const int32_t> tokens, int64_t batch_size, int64_t seq_length,
                 const AttentionIndexSpec& spec);

  int64_t batch_size() const { return batch_size_; }
  int64_t seq_length() const { return seq_length_; }

  std::span<const int32_t> positions(int64_t row) const {
    const auto begin = static_cast<size_t>(offsets_[static_cast<size_t>(row)]);
    const auto end = static_cast<size_t>(offsets_[static_cast<size_t>(row) + 1]);
    return std::span(positions_).subspan(begin, end - begin);
  }
  std::span<const int32_t> count(int64_t row) const { return Row(count_, row); }
  std::span<const int32_t> inverse(int64_t row) const { return Row(inverse_, row); }

  // Largest number of packed keys of any row.
  int64_t max_packed() const { return max_packed_; }

  // Visible (query, key) pairs of all rows for a window: the work of one head.
  int64_t VisiblePairs(int64_t window) const;

  // A slot that the attention op of a device owns: its copy of this index, empty until the first
  // call. Not thread-safe, as the ops of one rank are not.
  std::shared_ptr<const void>& device_copy() const { return device_copy_; }

 private:
  friend class GrowingAttentionIndex;
  explicit AttentionIndex(int64_t batch_size);
  // Tokens begin, begin + 1, ... of a row: its next ones, and no later row has any yet.
  void ExtendRow(int64_t row, int64_t begin, std::span<const int32_t> tokens,
                 const FarVisibility& far_visible);

  std::span<const int32_t> Row(const std::vector<int32_t>& values, int64_t row) const {
    return std::span(values).subspan(static_cast<size_t>(row * seq_length_),
                                     static_cast<size_t>(seq_length_));
  }

  int64_t batch_size_;
  int64_t seq_length_ = 0;
  int64_t max_packed_ = 0;
  std::vector<int32_t> positions_;
  std::vector<int64_t> offsets_;  // of rows in positions_
  std::vector<int32_t> count_;
  std::vector<int32_t> inverse_;
  mutable std::shared_ptr<const void> device_copy_;
};

// The index of one sequence that grows, for generation: new tokens cost what they are, however many
// came before.
class GrowingAttentionIndex {
 public:
  // Memory for max_length tokens.
  GrowingAttentionIndex(const AttentionIndexSpec& spec, int64_t max_length);
  void Append(std::span<const int32_t> tokens);
  // Of all tokens so far; a reference stays valid while this object lives.
  const AttentionIndex& index() const { return index_; }

 private:
  FarVisibility far_visible_;
  AttentionIndex index_;
};

// One index a spec, in the order of the specs: what Batch::indexes holds.
using AttentionIndexes = std::vector<std::shared_ptr<const AttentionIndex>>;
AttentionIndexes BuildAttentionIndexes(std::span<const int32_t> tokens, int64_t batch_size,
                                       int64_t seq_length,
                                       std::span<const AttentionIndexSpec> specs);

}  // namespace sepia
