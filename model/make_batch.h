// A batch [B, T] with the indexes that a model's layers need.
#pragma once

#include <cstdint>
#include <vector>

#include "base/batch.h"
#include "model/model_config.h"

namespace sepia::model {

Batch MakeBatch(const AttentionPlan& plan, std::vector<int32_t> tokens,
                std::vector<int32_t> targets, int64_t batch_size, int64_t seq_length);

// Rows [begin, end) of a batch.
Batch CutRows(const AttentionPlan& plan, const Batch& batch, int64_t begin, int64_t end);

}  // namespace sepia::model
