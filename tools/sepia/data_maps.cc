// sepia data maps: GPT-NeoX's index maps ahead of a run.
#include <array>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "data/index_map_cache.h"
#include "data/split.h"
#include "tools/sepia/data_commands.h"

namespace sepia::tools {
namespace {

struct MapsOptions {
  std::string prefix;
  int64_t seq = 0;
  std::vector<int64_t> samples;
  uint32_t seed = 1234;
  std::string split;
  std::string name = "train_0";
  std::string out;
};

nlohmann::ordered_json Describe(const data::NpyFile& file) {
  return {{"path", file.path()},
          {"dtype", file.descr()},
          {"shape", file.shape()},
          {"sha256", Sha256Hex(file.data_bytes())}};
}

void BuildMaps(const MapsOptions& options, const data::IndexedDataset& dataset,
               const std::string& name, int64_t first, int64_t end, int64_t samples) {
  const data::IndexMapSpec spec{.first_document = first,
                                .end_document = end,
                                .num_samples = samples,
                                .seq_length = options.seq,
                                .seed = options.seed};
  const std::string folder = options.out.empty() ? DirectoryOf(options.prefix) : options.out;
  const auto maps = data::OpenIndexMaps(dataset, spec, name, {.cache_dir = folder});
  const nlohmann::ordered_json line = {{"name", name},
                                       {"documents", {first, end}},
                                       {"tokens_per_epoch", maps->plan().tokens_per_epoch},
                                       {"epochs", maps->plan().num_epochs},
                                       {"samples", maps->num_samples()},
                                       {"length", maps->num_samples() - 1},
                                       {"doc_idx", Describe(maps->doc_file())},
                                       {"sample_idx", Describe(maps->sample_file())},
                                       {"shuffle_idx", Describe(maps->shuffle_file())}};
  std::printf("%s\n", line.dump().c_str());
}

void RunMaps(const MapsOptions& options) {
  const data::IndexedDataset dataset(options.prefix);
  if (options.split.empty()) {
    if (options.samples.size() != 1) throw UserError("--samples: one number without --split");
    BuildMaps(options, dataset, options.name, 0, dataset.num_sequences(), options.samples[0]);
    return;
  }
  constexpr std::array<const char*, 3> kNames = {"train", "valid", "test"};
  const data::SplitBounds bounds = data::SplitDocuments(options.split, dataset.num_sequences());
  for (size_t i = 0; i < kNames.size(); ++i) {
    const bool one_for_all = options.samples.size() == 1;
    if (bounds[i] == bounds[i + 1] || (!one_for_all && i >= options.samples.size())) continue;
    BuildMaps(options, dataset, kNames[i], bounds[i], bounds[i + 1],
              options.samples[one_for_all ? 0 : i]);
  }
}

}  // namespace

void AddDataMapsCommand(CLI::App& data) {
  auto options = std::make_shared<MapsOptions>();
  CLI::App* command = data.add_subcommand("maps", "build GPT-NeoX's index maps of a dataset");
  command->add_option("PREFIX", options->prefix, "path of the .bin/.idx pair without extension")
      ->required();
  command->add_option("--seq", options->seq, "tokens of a sample, T")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command
      ->add_option(
          "--samples", options->samples,
          "samples that the run needs; with --split one number for all, or train,valid,test")
      ->required()
      ->delimiter(',')
      ->allow_extra_args(false)
      ->expected(1, 3)
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", options->seed, "seed of the shuffles")->capture_default_str();
  command->add_option("--split", options->split, "shares of train, valid and test: \"969,30,1\"");
  command->add_option("--name", options->name, "part of the file names, without --split")
      ->capture_default_str();
  command->add_option("--out", options->out, "folder for the maps (default: beside the dataset)");
  command->footer(
      "Maps that exist already are checked and described. Prints one JSON object a split.\n"
      "Pythia's: 147164160 samples of 2048 with seed 1234.\n"
      "Example:\n  sepia data maps pile/train --seq 2048 --samples 147164160 --seed 1234");
  command->final_callback([options] { RunMaps(*options); });
}

}  // namespace sepia::tools
