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

Batch CutRows(const AttentionPlan& plan, const Batch& batch, int64_t begin, int64_t end) {
  const auto cut = [&](const auto& values) {
    auto rows = values;
    if (values.empty()) return rows;
    rows.assign(values.begin() + begin * batch.seq_length, values.begin() + end * batch.seq_length);
    return rows;
  };
  Batch rows =
      MakeBatch(plan, cut(batch.tokens), cut(batch.targets), end - begin, batch.seq_length);
  rows.loss_mask = cut(batch.loss_mask);
  return rows;
}

}  // namespace sepia::model
