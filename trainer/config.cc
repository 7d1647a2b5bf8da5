#include "trainer/config.h"

#include <utility>

#include <fmt/core.h>

#include "base/error.h"
#include "base/file.h"
#include "trainer/config_draft.h"
#include "trainer/config_parser.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

// A config is a page or two; anything larger is another file by mistake.
constexpr int64_t kMaxConfigBytes = 1 << 20;

void Parse(const std::string& text, const std::vector<std::string>& overrides, ConfigDraft* draft) {
  ParseConfigText(text, 0, draft->proto.get(), &draft->places, &draft->faults);
  for (const std::string& override_text : overrides) {
    const int source = draft->sources.AddOverride(override_text);
    ParseConfigOverride(override_text, source, draft->proto.get(), &draft->places, &draft->faults);
  }
  draft->unreadable = !draft->faults.empty();
}

}  // namespace

ConfigDraft::ConfigDraft(const std::string& name, const LoadOptions& load_options)
    : options(load_options),
      sources(name),
      faults(&sources),
      proto(std::make_unique<config::TrainConfig>()) {}

ConfigDraft::~ConfigDraft() = default;

LoadedConfig::LoadedConfig() = default;
LoadedConfig::~LoadedConfig() = default;
LoadedConfig::LoadedConfig(LoadedConfig&&) noexcept = default;
LoadedConfig& LoadedConfig::operator=(LoadedConfig&&) noexcept = default;

LoadedConfig LoadConfigText(const std::string& text, const std::string& name,
                            const std::vector<std::string>& overrides, const LoadOptions& options) {
  ConfigDraft draft(name, options);
  Parse(text, overrides, &draft);
  ResolveModel(&draft);
  ResolveRun(&draft);
  CheckConfig(&draft);
  draft.faults.ThrowIfAny();

  LoadedConfig loaded;
  loaded.settings = MakeSettings(*draft.proto, draft.model);
  loaded.values = ListValues(draft);
  loaded.resolved_text = ConfigToText(*draft.proto);
  loaded.warnings = std::move(draft.warnings);
  loaded.deviations = std::move(draft.deviations);
  loaded.resolved = std::move(draft.proto);
  return loaded;
}

LoadedConfig LoadConfig(const std::string& path, const std::vector<std::string>& overrides,
                        const LoadOptions& options) {
  std::string text;
  try {
    text = ReadFile(path, kMaxConfigBytes);
  } catch (const Error& error) {
    throw UserError(error.what());  // a config that cannot be read is a usage error: exit code 2
  }
  return LoadConfigText(text, path, overrides, options);
}

std::string QuotedText(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '\n') {
      quoted += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

LoadedConfig LoadModelSourceConfig(const std::string& source,
                                   const std::vector<std::string>& overrides) {
  const std::string text = fmt::format("init_from {{ path: {} }}", QuotedText(source));
  return LoadConfigText(text, "command line", overrides, {.for_training = false});
}

}  // namespace sepia::trainer
