// sepia data inspect: the exact samples of a step.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "data/batch_loader.h"
#include "data/data_config.pb.h"
#include "data/dataset.h"
#include "data/sampler.h"
#include "tools/sepia/data_commands.h"
#include "tools/sepia/set_option.h"
#include "trainer/config.h"
#include "trainer/train_config.pb.h"

namespace sepia::tools {
namespace {

struct InspectOptions {
  std::string config;
  std::vector<std::string> overrides;
  int64_t step = 0;
  int64_t steps = 1;
  int64_t rank = 0;
  int64_t ranks = 1;
  std::string split = "train";
};

// Only the split that is looked at, with the number of samples that training would ask for.
std::shared_ptr<const data::Dataset> OpenSplit(const trainer::LoadedConfig& config,
                                               const InspectOptions& inspect) {
  const std::string& split = inspect.split;
  const trainer::TrainSettings& settings = config.settings;
  const data::SampleCounts counts =
      data::CountSamples(settings.schedule.total_steps, settings.eval.every_steps,
                         settings.eval.steps, settings.batch.global);
  data::DatasetOptions options{.seq_length = settings.data.sequence_length,
                               .seed = static_cast<int64_t>(settings.seed)};
  if (split == "train") options.train_samples = counts.train;
  if (split == "valid") options.valid_samples = counts.valid;
  if (split == "test") options.test_samples = counts.test;
  // Where training keeps its maps when the folder of the data is read-only.
  if (FileExists(settings.run_dir)) options.fallback_cache_dir = settings.run_dir + "/index_maps";
  const data::Datasets datasets = data::BuildDatasets(config.resolved->data(), options);
  for (const auto& dataset : {datasets.train, datasets.valid, datasets.test}) {
    if (dataset != nullptr) return dataset;
  }
  throw UserError(
      fmt::format("{}: no {} data: the config names none, or the split gives it no "
                  "documents, or it asks for no evaluation",
                  inspect.config, split));
}

void PrintBatch(const Batch& batch, int64_t step, int64_t rank, int64_t micro) {
  for (int64_t row = 0; row < batch.batch_size; ++row) {
    const auto begin = batch.tokens.begin() + row * batch.seq_length;
    std::vector<int32_t> tokens(begin, begin + batch.seq_length);
    tokens.push_back(batch.targets[static_cast<size_t>((row + 1) * batch.seq_length - 1)]);
    const std::string digest = Sha256Hex(std::as_bytes(std::span(tokens)));
    const nlohmann::ordered_json line = {{"step", step},
                                         {"rank", rank},
                                         {"micro", micro},
                                         {"row", row},
                                         {"sample", batch.sample_ids[static_cast<size_t>(row)]},
                                         {"tokens", std::move(tokens)},
                                         {"sha256", digest}};
    std::printf("%s\n", line.dump().c_str());
  }
}

void RunInspect(const InspectOptions& options) {
  if (options.rank >= options.ranks) {
    throw UserError(fmt::format("--rank {}: ranks count from 0 to {}; give --ranks", options.rank,
                                options.ranks - 1));
  }
  const trainer::LoadedConfig config = trainer::LoadConfig(options.config, options.overrides);
  const trainer::TrainSettings& settings = config.settings;
  data::BatchLoader loader({.dataset = OpenSplit(config, options),
                            .global_batch = settings.batch.global,
                            .micro_batch = settings.batch.micro,
                            .shard = options.rank,
                            .num_shards = options.ranks,
                            .consumed_samples = options.step * settings.batch.global,
                            .vocab_size = settings.model.vocab_size,
                            .prefetch = 0});
  for (int64_t step = options.step; step < options.step + options.steps; ++step) {
    for (int64_t micro = 0; micro < loader.micro_batches_per_step(); ++micro) {
      PrintBatch(loader.Next(), step, options.rank, micro);
    }
  }
}

}  // namespace

void AddDataInspectCommand(CLI::App& data) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = data.add_subcommand("inspect", "the exact samples of a training step");
  command->add_option("CONFIG", options->config, "the training config")->required();
  AddSetOption(*command, &options->overrides);
  command
      ->add_option("--step", options->step,
                   "updates done before it: 0 is the first step; of --split valid and test, the "
                   "number of the global batch")
      ->required()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--steps", options->steps, "steps to print")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--rank", options->rank, "data rank")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--ranks", options->ranks, "data ranks of the run")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--split", options->split, "train, valid or test")
      ->capture_default_str()
      ->check(CLI::IsMember({"train", "valid", "test"}));
  command->footer(
      "Prints one JSON object a sample, by step, micro-batch and row: its T + 1 tokens and their\n"
      "SHA-256 as little-endian int32.\n"
      "Example:\n  sepia data inspect run.textproto --step 1000 --rank 3 --ranks 8");
  command->final_callback([options] { RunInspect(*options); });
}

}  // namespace sepia::tools
