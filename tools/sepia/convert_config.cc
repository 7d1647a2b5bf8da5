// sepia convert-config: GPT-NeoX YAML configs to a config of ours, on stdout.
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/neox/neox_config.h"
#include "tools/sepia/command.h"
#include "tools/sepia/neox_train_config.h"

namespace sepia::tools {
namespace {

struct ConvertConfigOptions {
  std::vector<std::string> paths;
  std::string numerics = "NEOX_2";
  NeoxConversionOptions conversion;
};

void RunConvertConfig(const ConvertConfigOptions& options) {
  const NeoxConversion result = ConvertNeoxConfig(checkpoint::ReadNeoxConfigs(options.paths),
                                                  options.paths.front(), options.conversion);
  fmt::print("# Converted from {}\n", fmt::join(options.paths, ", "));
  for (const std::string& key : result.ignored) fmt::print("# not needed: {}\n", key);
  fmt::print("{}numerics: {}\n", result.textproto, options.numerics);
}

}  // namespace

void AddConvertConfigCommand(CLI::App& app) {
  auto options = std::make_shared<ConvertConfigOptions>();
  CLI::App* command =
      app.add_subcommand("convert-config", "turn GPT-NeoX YAML configs into a config");
  command->add_option("config", options->paths, "YAML files of one run, merged")->required();
  command
      ->add_option("--gpus", options->conversion.num_gpus,
                   "GPUs of the original run: its global batch follows from it")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--tokenizer-size", options->conversion.tokenizer_size,
                   "tokens of the tokenizer, before padding")
      ->check(CLI::Range(1, 1 << 27))
      ->capture_default_str();
  command
      ->add_option("--numerics", options->numerics,
                   "PYTHIA_V1 for runs of GPT-NeoX v1.0, NEOX_2 for newer ones")
      ->check(CLI::IsMember({"PYTHIA_V1", "NEOX_2"}))
      ->capture_default_str();
  command->footer(
      "Every key is mapped, ignored with its reason in a comment, or refused.\n"
      "Example:\n"
      "  sepia convert-config pythia-160m.yml --gpus 32 --numerics PYTHIA_V1 > run.textproto");
  command->final_callback([options] { RunConvertConfig(*options); });
}

}  // namespace sepia::tools
