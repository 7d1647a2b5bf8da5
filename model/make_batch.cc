#include "model/make_batch.h"

#include <utility>

#include "base/attention_index.h"

namespace sepia::model {

Batch MakeBatch(const AttentionPlan& plan, std::vector<int32_t> tokens,
                std::vector<int32_t> targets, int64_t batch_size, int64_t seq_length) {
  Batch batch;
  batch.batch_size = batch_size;
  batch.seq_length = seq_length;
  batch.tokens = std::move(tokens);
  batch.targets = std::move(targets);
  batch.indexes = BuildAttentionIndexes(batch.tokens, batch_size, seq_length, plan.specs);
  return batch;
}

}  // namespace sepia::model
