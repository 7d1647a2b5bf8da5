// Micro-batches of one data rank, prepared ahead by a background thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/attention_index.h"
#include "base/batch.h"
#include "data/dataset.h"

namespace sepia::data {

struct BatchLoaderOptions {
  std::shared_ptr<const Dataset> dataset = nullptr;
  int64_t global_batch = 0;  // samples per optimizer step over all data ranks
  int64_t micro_batch = 0;   // rows per batch of this rank
  // Data rank and number of data ranks. global_batch must be a multiple of
  // micro_batch x num_shards.
  int64_t shard = 0;
  int64_t num_shards = 1;
  // Samples that the run has consumed so far, over all ranks: the place to resume at. A multiple
  // of global_batch.
  int64_t consumed_samples = 0;
  // Samples from this one on are left out, for evaluating a dataset exactly once: rows are cut,
  // and a rank may get a batch without rows. Negative: no end.
  int64_t end_sample = -1;
  // One AttentionIndex per batch for each (model/model_config.h: AttentionPlan::specs).
  std::vector<AttentionIndexSpec> attention_indexes = {};
  bool mask_eod_loss = false;  // predictions made from eod_id do not count
  int32_t eod_id = 0;
  int64_t vocab_size = 0;  // ids at or above it are kBadData; 0 = not checked
  int64_t prefetch = 4;    // batches prepared ahead; 0 = no thread, Next() does the work
};

// Batch `micro` of step s holds rows [r * micro_batch, (r + 1) * micro_batch) of the chunk of
// micro_batch x num_shards samples that follows s * global_batch + micro * that: GPT-NeoX's
// contiguous slices, so that step s always covers samples [s * global_batch, (s + 1) *
// global_batch), whatever the layout.
//
// One consumer. The destructor stops the thread.
class BatchLoader {
 public:
  explicit BatchLoader(BatchLoaderOptions options);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // The next micro-batch. Rethrows what went wrong in the thread: kBadData naming file, sequence
  // and offset for a token id outside the vocabulary.
  Batch Next();

  int64_t micro_batches_per_step() const { return micro_batches_per_step_; }
  // Samples consumed by whole steps handed out so far, over all ranks: what a checkpoint stores.
  int64_t consumed_samples() const;
  // Seconds that Next() has waited for data since the last call of this function.
  double TakeSecondsWaited();

 private:
  // `number` of a micro-batch counts from the start of the run.
  void Produce(int64_t number);
  Batch Build(int64_t number) const;
  void CheckVocabulary(int64_t k, const std::vector<int32_t>& sample) const;
  void LogIfDataIsUsedUp(int64_t step) const;

  const BatchLoaderOptions options_;
  const int64_t micro_batches_per_step_;
  const int64_t samples_per_pass_;
  int64_t next_;  // number of the micro-batch that Next() returns
  double seconds_waited_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;     // guarded by mutex_
  std::exception_ptr failure_;  // guarded by mutex_
  bool stop_ = false;           // guarded by mutex_
  std::thread thread_;
};

}  // namespace sepia::data
