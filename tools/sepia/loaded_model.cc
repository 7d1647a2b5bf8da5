#include "tools/sepia/loaded_model.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/buffer.h"
#include "base/log.h"
#include "dist/agreement.h"
#include "dist/device_world.h"
#include "tools/sepia/set_option.h"
#include "trainer/memory_plan.h"

namespace sepia::tools {
namespace {

void LoadWeights(const checkpoint::ModelSource& source, kernels::Context& ctx,
                 dist::Communicator& tensor, model::GptNeox& model) {
  int64_t largest = 0;
  for (const model::ParamSpec& spec : model.parameters().specs()) {
    largest = std::max(largest, spec.shape.num_elements());
  }
  const OwnedTensor staging(DType::kFloat32, {largest});
  int number = 0;
  for (const model::ParamSpec& spec : model.parameters().specs()) {
    const model::ParamPart part = PartOfTensorRank(spec, tensor.rank(), tensor.size());
    const TensorView values(staging.view().raw(), DType::kFloat32, part.shape);
    source.ReadPart(spec.hf_name, {part.offset, part.shape}, values);
    model.SetWeight(ctx, number++, values);
  }
}

// Settings of training say nothing to a command that only runs a model: a --set of one is an error
// in the command line, not something to pass over.
void RefuseTrainingSettings(const trainer::LoadedConfig& config) {
  constexpr std::array kTraining = {"data",    "batch", "optimizer", "schedule", "checkpoint",
                                    "logging", "eval",  "samples",   "safety",   "run_dir"};
  std::string refused;
  for (const trainer::ConfigValue& value : config.values) {
    const std::string section = value.path.substr(0, value.path.find_first_of(".["));
    if (value.origin.kind == trainer::ConfigOrigin::Kind::kOverride &&
        std::find(kTraining.begin(), kTraining.end(), section) != kTraining.end()) {
      refused += fmt::format("\n  {} ({})", value.path, value.origin.where);
    }
  }
  if (refused.empty()) return;
  throw UserError(
      fmt::format("this command does not train, so these have no effect:{}\nremove them", refused));
}

}  // namespace

void AddModelSourceOptions(CLI::App* command, ModelSourceOptions* options) {
  command
      ->add_option(
          "--model", options->model,
          "Sepia checkpoint or run directory, Hugging Face folder, GPT-NeoX checkpoint, or GGUF "
          "file")
      ->required();
  AddSetOption(*command, &options->overrides,
               "here model.attention.*, precision, numerics, device, kernels or threads");
}

OpenedModel OpenedModel::OpenOn(dist::Communicator& world, const ModelSourceOptions& options) {
  return dist::Agreed(world, [&] { return OpenedModel(options); });
}

OpenedModel::OpenedModel(const ModelSourceOptions& options)
    : config(trainer::LoadModelSourceConfig(options.model, options.overrides)),
      source(checkpoint::OpenModelSource(options.model)) {
  RefuseTrainingSettings(config);
  for (const std::string& warning : config.warnings) LogWarn("{}", warning);
}

int OpenedModel::num_threads() const { return trainer::NumThreads(settings()); }

LoadedModel::LoadedModel(const OpenedModel& opened, const LoadedModelSize& size,
                         std::unique_ptr<dist::Communicator> world)
    : mesh_(dist::OpenDeviceWorld(std::move(world), opened.settings().device),
            opened.settings().parallel.tensor),
      watchdog_(mesh_.world()) {
  const model::ModelConfig& config = opened.model_config();
  dist::Agree(mesh_.world(), [&] {
    if (size.seq_length <= config.max_positions) return;
    throw UserError(
        fmt::format("{} tokens in a row, but the model has {} positions; use at most "
                    "that many",
                    size.seq_length, config.max_positions));
  });
  model_ = std::make_unique<model::GptNeox>(
      config,
      model::ModelOptions{.compute_dtype = opened.settings().compute_dtype(),
                          .batch_size = size.batch_size,
                          .seq_length = size.seq_length,
                          .gradients = size.gradients,
                          .recompute = opened.settings().recompute,
                          .sequence = opened.settings().parallel.sequence,
                          .rotary_tables = opened.settings().rotary_tables,
                          .num_threads = opened.num_threads(),
                          .device = opened.settings().device,
                          .full_attention = opened.settings().full_attention},
      mesh_);
  ctx_ = {.device = opened.settings().device,
          .num_threads = opened.num_threads(),
          .scratch = &model_->scratch(),
          .allow_fallback = opened.settings().allow_fallback,
          .full_attention = opened.settings().full_attention};
  dist::Agree(mesh_.world(), [&] { LoadWeights(*opened.source, ctx_, mesh_.tensor(), *model_); });
}

std::string TokenizerPath(const std::string& given, const OpenedModel& opened) {
  if (!given.empty()) return given;
  if (!opened.settings().data.tokenizer.empty()) return opened.settings().data.tokenizer;
  const std::string path = opened.source->tokenizer_path();
  if (path.empty()) {
    throw UserError(fmt::format("{} brings no tokenizer.json; name one with --tokenizer",
                                opened.source->path()));
  }
  return path;
}

}  // namespace sepia::tools
