// sepia explain-config: every value of a config with its origin and documentation.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "base/error.h"
#include "base/log.h"
#include "tools/sepia/command.h"
#include "tools/sepia/set_option.h"
#include "trainer/config.h"
#include "trainer/config_docs.h"

namespace sepia::tools {
namespace {

struct ExplainOptions {
  std::string config;
  std::vector<std::string> overrides;
  bool brief = false;
  bool markdown = false;
};

void Explain(const ExplainOptions& options) {
  if (options.markdown) {
    fmt::print("{}", trainer::ConfigReference());
    return;
  }
  if (options.config.empty()) throw UserError("explain-config: name a config file, or --markdown");
  const trainer::LoadedConfig config = trainer::LoadConfig(
      options.config, options.overrides, {.for_training = false, .allow_missing_files = true});
  fmt::print("{}", trainer::ExplainConfig(config, !options.brief));
  for (const std::string& deviation : config.deviations) fmt::print("# departs: {}\n", deviation);
  for (const std::string& warning : config.warnings) LogWarn("{}", warning);
}

}  // namespace

void AddExplainConfigCommand(CLI::App& app) {
  auto options = std::make_shared<ExplainOptions>();
  CLI::App* command = app.add_subcommand(
      "explain-config", "every value of a config with its origin and documentation");
  command->add_option("config", options->config, "config file (text format)");
  AddSetOption(*command, &options->overrides);
  command->add_flag("--brief", options->brief, "values and origins only");
  command->add_flag("--markdown", options->markdown, "the reference page docs/config.md instead");
  command->footer(
      "Examples:\n"
      "  sepia explain-config configs/pythia-160m.textproto\n"
      "  sepia explain-config run.textproto --brief --set model.attention.window=128");
  command->final_callback([options] { Explain(*options); });
}

}  // namespace sepia::tools
