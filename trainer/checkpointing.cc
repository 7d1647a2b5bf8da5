#include "trainer/checkpointing.h"

#include <bit>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace sepia::trainer {

Checkpointing::Checkpointing(const LoadedConfig& config, AdamW& optimizer, dist::Mesh& mesh)
    : config_(config), settings_(config.settings.checkpoint), optimizer_(optimizer) {
  (void)mesh;
}

Checkpointing::~Checkpointing() = default;

std::string Checkpointing::LoadOrInitialize(kernels::Context& ctx, bool fresh,
                                            checkpoint::TrainState* state) {
  (void)fresh;
  if (!config_.settings.init_from.path.empty()) return StartFrom(ctx, state);
  optimizer_.InitializeWeights(ctx, config_.settings.seed);
  return fmt::format("random weights of seed {}", config_.settings.seed);
}

std::string Checkpointing::StartFrom(kernels::Context& ctx, checkpoint::TrainState* state) {
  (void)state;
  const auto source = checkpoint::OpenModelSource(config_.settings.init_from.path);
  LoadTensors(ctx, *source, /*moments=*/false);
  return fmt::format("weights of {} ({})", source->path(), source->format());
}

void Checkpointing::LoadTensors(kernels::Context& ctx, const checkpoint::ModelSource& source,
                                bool moments) {
  const auto load = [&](const std::vector<NamedTensor>& tensors, checkpoint::Role role) {
    for (const NamedTensor& tensor : tensors) {
      source.ReadPart(tensor.name, {tensor.offset, tensor.view.shape()}, tensor.view, role);
    }
  };
  load(optimizer_.Masters(), checkpoint::Role::kMaster);
  if (moments) {
    load(optimizer_.FirstMoments(), checkpoint::Role::kExpAvg);
    load(optimizer_.SecondMoments(), checkpoint::Role::kExpAvgSq);
  }
  optimizer_.WeightsLoaded(ctx);
}

// log_spaced: Pythia's 0, 1, 2, 4, ..., 512.
bool Checkpointing::Due(int64_t step) const {
  constexpr int64_t kLastLogSpaced = 512;
  const bool power = step == 0 || std::has_single_bit(static_cast<uint64_t>(step));
  if (settings_.log_spaced && step <= kLastLogSpaced && power) return true;
  return settings_.every_steps > 0 && step > 0 && step % settings_.every_steps == 0;
}

void Checkpointing::Save(const checkpoint::TrainState& state) { last_saved_step_ = state.step; }

void Checkpointing::Finish() {}

}  // namespace sepia::trainer
