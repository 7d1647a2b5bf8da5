#include "data/batch_loader.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "data/sampler.h"

namespace sepia::data {
namespace {

// Validates before anything is derived from the options.
int64_t MicroBatchesPerStep(const BatchLoaderOptions& options) {
  CHECK(options.dataset != nullptr);
  CHECK(options.global_batch > 0 && options.micro_batch > 0);
  CHECK(options.shard >= 0 && options.shard < options.num_shards, "shard {} of {}", options.shard,
        options.num_shards);
  const int64_t chunk = options.micro_batch * options.num_shards;
  if (options.global_batch % chunk != 0) {
    throw UserError(fmt::format("batch.global {} is no multiple of batch.micro {} x {} data ranks",
                                options.global_batch, options.micro_batch, options.num_shards));
  }
  CHECK(options.consumed_samples >= 0 && options.consumed_samples % options.global_batch == 0,
        "{} consumed samples with global batch {}", options.consumed_samples, options.global_batch);
  return options.global_batch / chunk;
}

// loss_mask[data == eod_token] = 0 with data = the inputs: get_ltor_masks_and_position_ids in
// megatron/utils.py of GPT-NeoX v1.0. What follows a document's end cannot be predicted from it.
std::vector<uint8_t> EodMask(const std::vector<int32_t>& tokens, int32_t eod_id) {
  std::vector<uint8_t> mask(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) mask[i] = tokens[i] != eod_id;
  return mask;
}

}  // namespace

BatchLoader::BatchLoader(BatchLoaderOptions options)
    : options_(std::move(options)),
      micro_batches_per_step_(MicroBatchesPerStep(options_)),
      samples_per_pass_(options_.dataset->SamplesPerPass(options_.global_batch)),
      next_(options_.consumed_samples / options_.global_batch * micro_batches_per_step_) {
  if (options_.prefetch > 0) {
    thread_ = std::thread([this, first = next_] { Produce(first); });
  }
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

int64_t BatchLoader::consumed_samples() const {
  return next_ / micro_batches_per_step_ * options_.global_batch;
}

double BatchLoader::TakeSecondsWaited() { return std::exchange(seconds_waited_, 0); }

Batch BatchLoader::Next() {
  const Timer timer;
  Batch batch;
  if (options_.prefetch > 0) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !ready_.empty() || failure_ != nullptr; });
    if (ready_.empty()) std::rethrow_exception(failure_);
    batch = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
  } else {
    batch = Build(next_);
  }
  ++next_;
  seconds_waited_ += timer.Seconds();
  return batch;
}

void BatchLoader::Produce(int64_t number) {
  try {
    for (;; ++number) {
      Batch batch = Build(number);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] {
        return stop_ || static_cast<int64_t>(ready_.size()) < options_.prefetch;
      });
      if (stop_) return;
      ready_.push_back(std::move(batch));
      lock.unlock();
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

Batch BatchLoader::Build(int64_t number) const {
  const int64_t micro = number % micro_batches_per_step_;
  if (micro == 0) LogIfDataIsUsedUp(number / micro_batches_per_step_);
  const ChunkLayout layout{.micro_batch = options_.micro_batch, .num_shards = options_.num_shards};
  const int64_t end = options_.end_sample < 0 ? INT64_MAX : options_.end_sample;

  Batch batch;
  batch.sample_ids = ShardOfChunk(layout, number, options_.shard, end);
  batch.batch_size = static_cast<int64_t>(batch.sample_ids.size());
  batch.seq_length = options_.dataset->seq_length();
  std::vector<int32_t> sample(static_cast<size_t>(batch.seq_length) + 1);
  for (const int64_t id : batch.sample_ids) {
    const int64_t k = id % samples_per_pass_;
    options_.dataset->Sample(k, sample);
    CheckVocabulary(k, sample);
    batch.tokens.insert(batch.tokens.end(), sample.begin(), sample.end() - 1);
    batch.targets.insert(batch.targets.end(), sample.begin() + 1, sample.end());
  }
  if (options_.mask_eod_loss) batch.loss_mask = EodMask(batch.tokens, options_.eod_id);
  batch.indexes = BuildAttentionIndexes(batch.tokens, batch.batch_size, batch.seq_length,
                                        options_.attention_indexes);
  return batch;
}

void BatchLoader::CheckVocabulary(int64_t k, const std::vector<int32_t>& sample) const {
  if (options_.vocab_size == 0) return;
  const auto bad = std::find_if(sample.begin(), sample.end(),
                                [this](int32_t token) { return token >= options_.vocab_size; });
  if (bad == sample.end()) return;
  const TokenPlace place = options_.dataset->Place(k, bad - sample.begin());
  throw BadData(place.file, place.byte_offset,
                fmt::format("token id {} in document {}, but the vocabulary has {} entries", *bad,
                            place.sequence, options_.vocab_size),
                "use the tokenizer that the data was made with, or a larger model.vocab_size");
}

void BatchLoader::LogIfDataIsUsedUp(int64_t step) const {
  const int64_t begin = step * options_.global_batch;
  const int64_t end = begin + options_.global_batch;
  // Passes that begin at a sample in (begin - 1, end - 1], except the first.
  const int64_t before = begin == 0 ? 0 : (begin - 1) / samples_per_pass_;
  if ((end - 1) / samples_per_pass_ == before) return;
  LogInfo("step {}: all {} samples of the data are used up, starting over", step,
          samples_per_pass_);
}

}  // namespace sepia::data
