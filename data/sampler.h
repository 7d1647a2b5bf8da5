// Which samples a step, a micro-batch and a data rank get. Pure arithmetic, as GPT-NeoX v1.0
// (megatron/data/samplers.py, data_utils.py).
#pragma once

#include <cstdint>
#include <vector>

namespace sepia::data {

// Samples that a run needs of each split.
struct SampleCounts {
  int64_t train = 0;
  int64_t valid = 0;
  int64_t test = 0;
};
// train_steps * batch; (train_steps / eval_every + 1) * eval_steps * batch; eval_steps * batch.
// eval_every = 0: no validation.
SampleCounts CountSamples(int64_t train_steps, int64_t eval_every, int64_t eval_steps,
                          int64_t global_batch);

// A sequential order cut into chunks of micro_batch * num_shards samples.
struct ChunkLayout {
  int64_t micro_batch = 1;
  int64_t num_shards = 1;
  int64_t chunk_size() const { return micro_batch * num_shards; }
};

// Chunks of a dataset; a short last one counts only without `drop_last`.
int64_t NumChunks(const ChunkLayout& layout, int64_t length, bool drop_last);

// Samples of one chunk for one shard: the contiguous part [shard * micro_batch, ...), or with
// `interleave` every num_shards-th. Cut off at `length`. GPT-NeoX trains without interleaving.
std::vector<int64_t> ShardOfChunk(const ChunkLayout& layout, int64_t chunk, int64_t shard,
                                  int64_t length, bool interleave = false);

// The chunk at which GPT-NeoX resumes training: iteration * accumulation steps, modulo the number
// of chunks.
int64_t NeoxTrainResumeChunk(int64_t iteration, int64_t accumulation, int64_t num_chunks);

// The chunk at which GPT-NeoX resumes validation. With accumulation > 1 that is not where an
// uninterrupted run would be; Sepia's trainer resumes by consumed samples instead.
int64_t NeoxValidResumeChunk(int64_t iteration, int64_t accumulation, int64_t eval_every,
                             int64_t eval_steps, int64_t num_chunks);

}  // namespace sepia::data
