// What the stages of LoadConfig hand to each other: the config as given, filled in step by step.
// Used by trainer/config_*.cc only.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "trainer/config.h"
#include "trainer/config_faults.h"

namespace sepia::trainer {

struct ConfigDraft {
  ConfigDraft(const std::string& name, const LoadOptions& load_options);
  ~ConfigDraft();
  ConfigDraft(const ConfigDraft&) = delete;
  ConfigDraft& operator=(const ConfigDraft&) = delete;

  LoadOptions options;
  ConfigSources sources;
  ConfigFaults faults;
  ConfigPlaces places;
  // As given at first; every stage fills in more.
  std::unique_ptr<config::TrainConfig> proto;
  model::ModelConfig model;
  // Origins of values that are neither given nor the .proto's defaults, by path.
  std::map<std::string, ConfigOrigin> derived;
  std::vector<std::string> warnings;
  std::vector<std::string> deviations;
  // Some text could not be read: a field that seems to be missing may be a misspelt one.
  bool unreadable = false;

  bool Given(const std::string& path) const { return places.count(path) > 0; }
  void Fault(const std::string& path, const std::string& message,
             ExitCode code = ExitCode::kUsage) {
    faults.AddAt(places, path, path + ": " + message, code);
  }
  // For fields that nothing supplies.
  void Missing(const std::string& path, const std::string& remedy) {
    if (!unreadable) faults.AddAt(places, path, path + " is missing; " + remedy);
  }
  void Derive(const std::string& path, ConfigOrigin::Kind kind, const std::string& where) {
    derived[path] = {kind, where};
  }
};

// config_model.cc: preset, init_from, activation, separators; fills draft->model and proto.model.
void ResolveModel(ConfigDraft* draft);
// config_run.cc: everything else that follows from other values, then the .proto's defaults.
void ResolveRun(ConfigDraft* draft);
// config_checks.cc: ranges and contradictions of the complete proto.
void CheckConfig(ConfigDraft* draft);
// config_settings.cc: the complete proto as plain values.
TrainSettings MakeSettings(const config::TrainConfig& proto, const model::ModelConfig& model);
// config_values.cc: every value of the complete proto with its origin.
std::vector<ConfigValue> ListValues(const ConfigDraft& draft);
std::string ConfigToText(const config::TrainConfig& proto);

}  // namespace sepia::trainer
