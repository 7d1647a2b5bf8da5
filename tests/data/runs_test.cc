// Whole runs: which tokens every rank sees at every step, against GPT-NeoX's own loaders.
#include <gtest/gtest.h>

#include "data/batch_loader.h"
#include "data/data_config.pb.h"
#include "data/dataset.h"
#include "data/sampler.h"
#include "tests/data/data_fixtures.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using nlohmann::json;
using sepia::testing::ReadJson;
using sepia::testing::ReadNpy;
using sepia::testing::TempDir;

// The batches that DistributedBatchSampler yields, written with ShardOfChunk.
std::vector<std::vector<int64_t>> Batches(const json& reference, int64_t shard, int64_t start) {
  const ChunkLayout layout{.micro_batch = reference["micro"], .num_shards = reference["world"]};
  const int64_t length = reference["dataset_len"];
  const int64_t full = NumChunks(layout, length, /*drop_last=*/true);
  const bool drop_last = reference["drop_last"];
  std::vector<std::vector<int64_t>> batches;
  for (int64_t chunk = start; chunk < full; ++chunk) {
    batches.push_back(ShardOfChunk(layout, chunk, shard, length, reference["interleave"]));
  }
  // Upstream yields the short last chunk wherever it starts.
  if (!drop_last && NumChunks(layout, length, false) > full) {
    batches.push_back(ShardOfChunk(layout, full, shard, length, reference["interleave"]));
  }
  return batches;
}

void ExpectBatches(const json& reference, const std::vector<std::vector<int64_t>>& batches) {
  using Rows = std::vector<std::vector<int64_t>>;
  if (reference.contains("batches")) {
    EXPECT_EQ(batches, reference["batches"].get<Rows>());
    return;
  }
  EXPECT_EQ(static_cast<int64_t>(batches.size()), reference["batch_count"]);
  const auto count = static_cast<ptrdiff_t>(batches.size());
  EXPECT_EQ(Rows(batches.begin(), batches.begin() + std::min<ptrdiff_t>(3, count)),
            reference["batches_head"].get<Rows>());
  EXPECT_EQ(Rows(batches.end() - std::min<ptrdiff_t>(2, count), batches.end()),
            reference["batches_tail"].get<Rows>());
}

TEST(Sampler, EqualsNeox) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  for (const json& reference : ReadJson(fixtures + "/sampler.json")) {
    SCOPED_TRACE(fmt::format("length {} micro {} world {} start {}",
                             reference["dataset_len"].get<int64_t>(),
                             reference["micro"].get<int64_t>(), reference["world"].get<int64_t>(),
                             reference["start_iter"].get<int64_t>()));
    const ChunkLayout layout{.micro_batch = reference["micro"], .num_shards = reference["world"]};
    EXPECT_EQ(layout.chunk_size(), reference["batch_size"]);
    EXPECT_EQ(NumChunks(layout, reference["dataset_len"], reference["drop_last"]),
              reference["len"]);
    const int64_t start = reference["start_iter"];
    for (int64_t shard = 0; shard < layout.num_shards; ++shard) {
      const json& rank = reference["ranks"][static_cast<size_t>(shard)];
      ExpectBatches(rank, Batches(reference, shard, start));
      // The first full chunk of a pass resets the start of the next one to 0.
      const bool any_full = start < NumChunks(layout, reference["dataset_len"], true);
      const auto second = Batches(reference, shard, any_full ? 0 : start);
      EXPECT_EQ(static_cast<int64_t>(second.size()), rank["second_pass_batches"]);
    }
  }
}

void AddSources(google::protobuf::RepeatedPtrField<config::DataSource>* sources,
                const std::string& folder, const json& names, const json& weights) {
  for (size_t i = 0; i < names.size(); ++i) {
    config::DataSource* source = sources->Add();
    source->set_prefix(folder + std::string(names[i]));
    source->set_weight(weights[i]);
  }
}

config::DataConfig ConfigOf(const json& args, const std::string& fixtures,
                            const std::string& cache) {
  const std::string folder = fixtures + "/datasets/";
  config::DataConfig config;
  config.set_cache_dir(cache);
  if (args.contains("data_path")) {
    config.add_source()->set_prefix(folder + std::string(args["data_path"]));
    config.set_split(args["split"]);
    return config;
  }
  AddSources(config.mutable_train(), folder, args["train_data_paths"], args["train_data_weights"]);
  AddSources(config.mutable_valid(), folder, args["valid_data_paths"], args["valid_data_weights"]);
  AddSources(config.mutable_test(), folder, args["test_data_paths"], args["test_data_weights"]);
  if (args.contains("weight_by_num_documents")) config.set_blend_by_num_docs_alpha(0.3);
  return config;
}

// One run of runs.json, set up as Sepia's trainer would.
struct NeoxRun {
  NeoxRun(const json& reference, const std::string& fixtures, const std::string& cache)
      : layout{.micro_batch = reference["micro"], .num_shards = reference["dp"]},
        global_batch(reference["global_batch"]),
        gas(reference["gas"]),
        first(reference["first_iteration"]),
        steps(reference["steps_available"]) {
    const json& args = reference["args"];
    const SampleCounts counts =
        CountSamples(args["train_iters"], args["eval_interval"], args["eval_iters"], global_batch);
    datasets = BuildDatasets(ConfigOf(args, fixtures, cache), {.train_samples = counts.train,
                                                               .valid_samples = counts.valid,
                                                               .test_samples = counts.test,
                                                               .seq_length = args["seq_length"],
                                                               .seed = args["seed"]});
  }

  BatchLoader Loader(int64_t shard, int64_t prefetch) const {
    return BatchLoader({.dataset = datasets.train,
                        .global_batch = global_batch,
                        .micro_batch = layout.micro_batch,
                        .shard = shard,
                        .num_shards = layout.num_shards,
                        .consumed_samples = first * global_batch,
                        .prefetch = prefetch});
  }

  ChunkLayout layout;
  int64_t global_batch;
  int64_t gas;
  int64_t first;
  int64_t steps;
  Datasets datasets;
};

void AppendRows(const Batch& batch, std::vector<int64_t>& tokens) {
  for (int64_t row = 0; row < batch.batch_size; ++row) {
    const auto begin = batch.tokens.begin() + row * batch.seq_length;
    tokens.insert(tokens.end(), begin, begin + batch.seq_length);
    tokens.push_back(batch.targets[static_cast<size_t>((row + 1) * batch.seq_length - 1)]);
  }
}

TEST(Runs, EveryRankAndStepEqualsNeox) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  TempDir dir;
  for (const json& reference : ReadJson(fixtures + "/runs.json")) {
    SCOPED_TRACE(fmt::format("{} from {}", reference["run"].get<std::string>(),
                             reference["first_iteration"].get<int64_t>()));
    const NeoxRun run(reference, fixtures, dir.path());
    EXPECT_EQ(run.datasets.train->length(), reference["train_len"]);
    std::vector<int64_t> tokens;
    for (int64_t shard = 0; shard < run.layout.num_shards; ++shard) {
      BatchLoader loader = run.Loader(shard, /*prefetch=*/shard % 2 == 0 ? 3 : 0);
      EXPECT_EQ(loader.micro_batches_per_step(), run.gas);
      for (int64_t i = 0; i < run.steps * run.gas; ++i) AppendRows(loader.Next(), tokens);
      EXPECT_EQ(loader.consumed_samples(), (run.first + run.steps) * run.global_batch);
    }
    EXPECT_EQ(tokens, ReadNpy(fixtures + "/" + std::string(reference["file"])));
  }
}

TEST(Runs, ResumePositionsEqualNeox) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  TempDir dir;
  for (const json& reference : ReadJson(fixtures + "/runs.json")) {
    SCOPED_TRACE(reference["run"]);
    const NeoxRun run(reference, fixtures, dir.path());
    const int64_t chunks = NumChunks(run.layout, run.datasets.train->length(), true);
    EXPECT_EQ(chunks, reference["train_loader_len"]);
    EXPECT_EQ(NeoxTrainResumeChunk(run.first, run.gas, chunks), reference["train_start_chunk"]);

    const Dataset& valid = *run.datasets.valid;
    EXPECT_EQ(valid.length(), reference["valid_len"]);
    const int64_t valid_chunks = NumChunks(run.layout, valid.length(), true);
    EXPECT_EQ(valid_chunks, reference["valid_loader_len"]);
    const int64_t start =
        NeoxValidResumeChunk(run.first, run.gas, reference["args"]["eval_interval"],
                             reference["args"]["eval_iters"], valid_chunks);
    EXPECT_EQ(start, reference["valid_start_chunk"]);
    std::vector<int64_t> tokens;
    std::vector<int32_t> sample(static_cast<size_t>(valid.seq_length()) + 1);
    for (int64_t shard = 0; shard < run.layout.num_shards; ++shard) {
      for (int64_t chunk = start; chunk < start + 2; ++chunk) {
        for (const int64_t k : ShardOfChunk(run.layout, chunk, shard, valid.length())) {
          valid.Sample(k, sample);
          tokens.insert(tokens.end(), sample.begin(), sample.end());
        }
      }
    }
    EXPECT_EQ(tokens, ReadNpy(fixtures + "/" + std::string(reference["valid_file"])));
    EXPECT_EQ(run.datasets.test != nullptr, reference["do_train_valid_test"][2] == 1);
  }
}

// Where NeoX stops with StopIteration because it counts one sample too few, Sepia takes the sample
// that is there and then starts over.
TEST(Runs, ExactEpochGoesOn) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  TempDir dir;
  for (const json& reference : ReadJson(fixtures + "/runs.json")) {
    if (reference["stop_iteration_at_step"].is_null()) continue;
    const NeoxRun run(reference, fixtures, dir.path());
    BatchLoader loader(
        {.dataset = run.datasets.train,
         .global_batch = run.global_batch,
         .micro_batch = run.global_batch,
         .consumed_samples = int64_t{reference["stop_iteration_at_step"]} * run.global_batch,
         .prefetch = 0});
    const int64_t real = run.datasets.train->length() + 1;
    EXPECT_EQ(run.datasets.train->SamplesPerPass(run.global_batch), real);
    std::vector<int64_t> last;
    AppendRows(loader.Next(), last);
    std::vector<int64_t> wrapped;
    AppendRows(loader.Next(), wrapped);
    std::vector<int32_t> sample(static_cast<size_t>(run.datasets.train->seq_length()) + 1);
    const auto row = static_cast<int64_t>(sample.size());
    for (int64_t i = 0; i < run.global_batch; ++i) {
      run.datasets.train->Sample(real - run.global_batch + i, sample);
      EXPECT_TRUE(std::equal(sample.begin(), sample.end(), last.begin() + i * row));
      run.datasets.train->Sample(i, sample);
      EXPECT_TRUE(std::equal(sample.begin(), sample.end(), wrapped.begin() + i * row));
    }
  }
}

}  // namespace
}  // namespace sepia::data
