// What the data loader hands to the model: one micro-batch of one data rank.
#pragma once

#include <cstdint>
#include <vector>

#include "base/attention_index.h"
#include "base/tensor.h"

namespace sepia {

struct Batch {
  int64_t batch_size = 0;  // B; data ranks may hold unequal numbers of rows, or none
  int64_t seq_length = 0;  // T
  std::vector<int32_t> tokens;      // [B, T]
  std::vector<int32_t> targets;     // [B, T]: tokens shifted by one
  std::vector<uint8_t> loss_mask;   // [B, T], 0 = does not count; empty = all count
  // One per distinct AttentionIndexSpec of the model; layers refer to them by number
  // (model/model_config.h: AttentionPlan).
  AttentionIndexes indexes;
  std::vector<int64_t> sample_ids;  // [B]: number of each row in the global sample order

  Shape shape() const { return {batch_size, seq_length}; }
  ConstTensorView tokens_view() const {
    return ConstTensorView::Of(std::span<const int32_t>(tokens), shape());
  }
  ConstTensorView targets_view() const {
    return ConstTensorView::Of(std::span<const int32_t>(targets), shape());
  }
  // Empty view when every target counts.
  ConstTensorView loss_mask_view() const {
    if (loss_mask.empty()) return {};
    return ConstTensorView::Of(std::span<const uint8_t>(loss_mask), shape());
  }
  int64_t num_targets() const {
    if (loss_mask.empty()) return batch_size * seq_length;
    int64_t count = 0;
    for (const uint8_t counts : loss_mask) count += counts != 0;
    return count;
  }
};

}  // namespace sepia
