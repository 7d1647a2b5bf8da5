#include "data/sampler.h"

#include "base/check.h"
#include "base/integer.h"

namespace sepia::data {

SampleCounts CountSamples(int64_t train_steps, int64_t eval_every, int64_t eval_steps,
                          int64_t global_batch) {
  SampleCounts counts{.train = train_steps * global_batch};
  if (eval_every <= 0) return counts;
  counts.valid = (train_steps / eval_every + 1) * eval_steps * global_batch;
  counts.test = eval_steps * global_batch;
  return counts;
}

int64_t NumChunks(const ChunkLayout& layout, int64_t length, bool drop_last) {
  const int64_t chunk = layout.chunk_size();
  CHECK_GT(chunk, 0);
  return drop_last ? length / chunk : CeilDiv(length, chunk);
}

std::vector<int64_t> ShardOfChunk(const ChunkLayout& layout, int64_t chunk, int64_t shard,
                                  int64_t length, bool interleave) {
  CHECK(shard >= 0 && shard < layout.num_shards, "shard {} of {}", shard, layout.num_shards);
  const int64_t begin = chunk * layout.chunk_size();
  std::vector<int64_t> samples;
  for (int64_t row = 0; row < layout.micro_batch; ++row) {
    const int64_t sample = interleave ? begin + shard + row * layout.num_shards
                                      : begin + shard * layout.micro_batch + row;
    if (sample < length) samples.push_back(sample);
  }
  return samples;
}

int64_t NeoxTrainResumeChunk(int64_t iteration, int64_t accumulation, int64_t num_chunks) {
  CHECK_GT(num_chunks, 0);
  return iteration * accumulation % num_chunks;
}

int64_t NeoxValidResumeChunk(int64_t iteration, int64_t accumulation, int64_t eval_every,
                             int64_t eval_steps, int64_t num_chunks) {
  CHECK(num_chunks > 0 && eval_every > 0);
  return iteration * accumulation / eval_every * eval_steps % num_chunks;
}

}  // namespace sepia::data
