// What probe, generate and eval share: --model SRC, --set, and a model in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/batch.h"
#include "checkpoint/model_source.h"
#include "dist/mesh.h"
#include "dist/watchdog.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"
#include "trainer/config.h"

namespace sepia::tools {

struct ModelSourceOptions {
  std::string model;
  std::vector<std::string> overrides;
};
// --model (required) and --set.
void AddModelSourceOptions(CLI::App* command, ModelSourceOptions* options);

// An opened source and how to run it. Warnings (activation overridden, ...) have been logged.
struct OpenedModel {
  // One fate for all ranks. Collective.
  static OpenedModel OpenOn(dist::Communicator& world, const ModelSourceOptions& options);

  explicit OpenedModel(const ModelSourceOptions& options);

  const trainer::TrainSettings& settings() const { return config.settings; }
  const model::ModelConfig& model_config() const { return config.settings.model; }
  int num_threads() const;

  trainer::LoadedConfig config;
  std::unique_ptr<checkpoint::ModelSource> source;
};

struct LoadedModelSize {
  int64_t batch_size = 1;
  int64_t seq_length = 0;
  bool gradients = false;
};

class LoadedModel {
 public:
  // Allocates the model and reads this rank's part of the weights. Throws UserError when seq_length
  // is past the model's positions. Collective.
  LoadedModel(const OpenedModel& opened, const LoadedModelSize& size,
              std::unique_ptr<dist::Communicator> world);

  model::GptNeox& model() { return *model_; }
  dist::Mesh& mesh() { return mesh_; }
  kernels::Context& ctx() { return ctx_; }

 private:
  dist::Mesh mesh_;
  const dist::Watchdog watchdog_;
  std::unique_ptr<model::GptNeox> model_;
  kernels::Context ctx_;
};

// The tokenizer of a command: `given`, else the config's, else the source's. Throws UserError when
// there is none.
std::string TokenizerPath(const std::string& given, const OpenedModel& opened);

}  // namespace sepia::tools
