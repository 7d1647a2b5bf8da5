// From a config file to a run: proto2 text format with line and column in every complaint, --set
// overrides in the same grammar, presets and defaults applied, everything checked.
//
//   LoadedConfig config = LoadConfig("run.textproto", {"batch.micro=4"}, {.ranks = world.size()});
//   config.settings.batch.micro ...
//
// All faults are thrown together as one UserError(kUsage), one line each:
//   run.textproto:12:3: unknown field "hiden_size" in model; did you mean "hidden_size"?
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/settings.h"

namespace sepia::config {
class TrainConfig;
}

namespace sepia::trainer {

struct LoadOptions {
  // World size, for batch and layout checks; 0: one data rank (parallel.tensor ranks).
  int ranks = 0;
  // False for commands that only run a model (probe, generate, eval): learning rate, number of
  // steps, data and run directory are not asked for.
  bool for_training = true;
  // True for commands that only look at a config (check, explain-config): a tokenizer that is not
  // there yet is a warning, and separator_text gets ids that stand for it.
  bool allow_missing_files = false;
};

// Where a value comes from.
struct ConfigOrigin {
  enum class Kind : uint8_t { kDefault, kPreset, kInitFrom, kDerived, kFile, kOverride };
  Kind kind = Kind::kDefault;
  // "run.textproto:12:3", "--set batch.micro=4", "preset pythia-160m", "lr / 10"; empty: default.
  std::string where;
};

struct ConfigValue {
  std::string path;   // "model.attention.window", "data.train[0].prefix"
  std::string value;  // as in text format: 64, SEP, "text", [0, -1]; empty: not set, no default
  ConfigOrigin origin;
};

struct LoadedConfig {
  LoadedConfig();
  ~LoadedConfig();
  LoadedConfig(LoadedConfig&&) noexcept;
  LoadedConfig& operator=(LoadedConfig&&) noexcept;

  TrainSettings settings;
  // Every field set. Include "trainer/train_config.pb.h" to use it.
  std::unique_ptr<config::TrainConfig> resolved;
  // `resolved` as text, one field a line in the order of the .proto files, numbers that round-trip:
  // config.resolved.textproto. Loads again to the same settings.
  std::string resolved_text;
  // Every value in the order of the .proto files.
  std::vector<ConfigValue> values;
  // Things that work but should be known, e.g. "numerics: HF ...". To be logged once.
  std::vector<std::string> warnings;
  // Where the run departs from its `numerics` preset and its model preset, e.g.
  // "precision: BF16 (PYTHIA_V1 trained in FP16)". The log prints them in the header block.
  std::vector<std::string> deviations;
};

// Reads a file of at most 1 MiB.
LoadedConfig LoadConfig(const std::string& path, const std::vector<std::string>& overrides,
                        const LoadOptions& options = {});

// The same for text at hand; `name` stands in messages where the path would.
LoadedConfig LoadConfigText(const std::string& text, const std::string& name,
                            const std::vector<std::string>& overrides,
                            const LoadOptions& options = {});

// The config of a command that takes --model SRC and --set: init_from { path: SRC }, not for
// training.
LoadedConfig LoadModelSourceConfig(const std::string& source,
                                   const std::vector<std::string>& overrides);

// A text in quotes, as the config grammar writes it.
std::string QuotedText(const std::string& text);

// A field in which two resolved configs differ.
struct ConfigDifference {
  enum class Effect : uint8_t {
    kRefuse,    // architecture, data, seed, arithmetic: a resumed run would be another run
    kHarmless,  // learning rate, steps, directories, logging, layout: allowed, listed
  };
  std::string path;
  std::string before;
  std::string after;
  Effect effect;
};
// Of two texts as in LoadedConfig::resolved_text. Throws UserError(kBadData) when one does not
// parse.
std::vector<ConfigDifference> DiffConfigs(const std::string& before, const std::string& after);

// "PYTHIA_V1", "BF16", ... as the config spells them.
std::string NumericsName(Numerics numerics);
std::string PrecisionName(Precision precision);

}  // namespace sepia::trainer
