#include "trainer/state_loader.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "base/device_memory.h"
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/reader.h"
#include "checkpoint/sepia_source.h"
#include "checkpoint/step_directories.h"
#include "dist/agreement.h"
#include "dist/gather.h"

namespace sepia::trainer {
namespace {

// Whether `path` is the field `name`, or inside it.
bool Covers(std::string_view name, std::string_view path) {
  return path.starts_with(name) &&
         (path.size() == name.size() || path[name.size()] == '.' || path[name.size()] == '[');
}

void RequireFields(const std::vector<std::string>& names, const LoadedConfig& config) {
  for (const std::string& name : names) {
    const auto covered = [&](const ConfigValue& value) { return Covers(name, value.path); };
    if (std::any_of(config.values.begin(), config.values.end(), covered)) continue;
    throw UserError(fmt::format(
        "--override {}: the config has no such field; `sepia explain-config` lists all", name));
  }
}

// Texts without newlines, as one.
std::string JoinLines(const std::vector<std::string>& lines) {
  return fmt::format("{}", fmt::join(lines, "\n"));
}

std::vector<std::string> SplitLines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

StateLoader::StateLoader(const LoadedConfig& config, const CheckpointingOptions& options,
                         AdamW& optimizer, dist::Communicator& world)
    : config_(config), options_(options), optimizer_(optimizer), world_(world) {
  dist::Agree(world_, [&] { RequireFields(options_.overrides, config_); });
}

// The checkpoints to resume from, newest first: one, unless older ones will do. As rank 0 sees
// them: the others may look at a stale directory.
std::vector<std::string> StateLoader::PathsToTry() {
  const std::string& directory = config_.settings.checkpoint.dir;
  std::vector<std::string> paths;
  dist::Agree(world_, [&] {
    if (world_.rank() != 0) return;
    if (options_.fallback_to_older) {
      for (const auto& candidate : checkpoint::FindCheckpoints(directory)) {
        paths.push_back(candidate.path);
      }
    }
    if (paths.empty()) {
      if (auto newest = checkpoint::NewestCheckpoint(directory)) paths.push_back(*newest);
    }
    if (paths.empty() || !options_.fresh) return;
    throw UserError(
        fmt::format("--fresh: {} already holds a checkpoint; leave --fresh out to "
                    "resume, or choose another --run-dir",
                    paths.front()));
  });
  return SplitLines(dist::BroadcastText(world_, JoinLines(paths), 0, "checkpoints"));
}

// Loads the first of `paths` that is whole. Returns which.
std::string StateLoader::LoadNewest(const std::vector<std::string>& paths,
                                    checkpoint::TrainState* state) {
  size_t first = 0;
  const auto load = [&] { Load(paths[first], state); };
  for (; first + 1 < paths.size(); ++first) {
    const std::optional<dist::Failure> failure = dist::FirstFailure(world_, load);
    if (!failure.has_value()) break;
    if (failure->code != ExitCode::kBadData) dist::FailTogether(world_, *failure);
    if (world_.rank() == 0) LogWarn("--fallback-to-older: {}", failure->message);
  }
  if (first + 1 == paths.size()) dist::Agree(world_, load);
  // Now: the next start must not stumble over them again.
  dist::Agree(world_, [&] {
    for (size_t i = 0; world_.rank() == 0 && i < first; ++i) {
      LogWarn("{} is damaged; it is now {}", paths[i], checkpoint::SetAside(paths[i]));
    }
  });
  return paths[first];
}

std::string StateLoader::LoadOrInitialize(kernels::Context& ctx, checkpoint::TrainState* state,
                                          bool* resumed) {
  std::string start;
  const std::vector<std::string> paths = PathsToTry();
  const InitFromSettings& init = config_.settings.init_from;
  *resumed = !paths.empty();
  if (*resumed) {
    const std::string path = LoadNewest(paths, state);
    start = fmt::format("resuming {} after step {}", path, state->step);
  } else if (!init.path.empty()) {
    dist::Agree(world_, [&] {
      const auto source = checkpoint::OpenModelSource(init.path);
      StartFrom(*source, state);
      start = fmt::format("{} of {} ({})", init.weights_only ? "weights" : "weights and optimizer",
                          source->path(), source->format());
    });
  } else {
    optimizer_.InitializeWeights(ctx, config_.settings.seed);
    return fmt::format("random weights of seed {}", config_.settings.seed);
  }
  optimizer_.WeightsLoaded(ctx);
  return start;
}

void StateLoader::Load(const std::string& path, checkpoint::TrainState* state) {
  const checkpoint::CheckpointReader reader(path);
  if (reader.train_state() == nullptr) {
    throw UserError(ExitCode::kBadData,
                    fmt::format("{}: holds weights only, so a run cannot be resumed from it; start "
                                "one with init_from {{ path: \"{}\" }} in another directory",
                                path, path));
  }
  CheckSameRun(path, reader.config_text(), *reader.train_state(), *state);
  LoadTensors(*checkpoint::OpenSepiaCheckpoint(path), /*moments=*/true);
  checkpoint::TrainState resumed = *reader.train_state();
  resumed.schedule = state->schedule;  // a changed one is allowed, and was logged
  // The same, unless overridden.
  resumed.seed = state->seed;
  const int64_t next_sample = resumed.data.next_sample;
  resumed.data = state->data;
  resumed.data.next_sample = next_sample;
  *state = std::move(resumed);
}

void StateLoader::StartFrom(const checkpoint::ModelSource& source, checkpoint::TrainState* state) {
  const bool whole_run = !config_.settings.init_from.weights_only;
  if (whole_run) {
    if (source.train_state() == nullptr || !source.Has(checkpoint::Role::kExpAvg)) {
      throw UserError(
          fmt::format("init_from: {} ({}) has no optimizer state; set "
                      "init_from.weights_only: true",
                      source.path(), source.format()));
    }
    *state = Continued(source, *state);
  } else {
    const int64_t first = config_.settings.init_from.first_step;
    state->step = first;
    state->consumed_samples = state->data.next_sample = first * config_.settings.batch.global;
    state->consumed_tokens = first * config_.settings.tokens_per_step();
    if (world_.rank() == 0) {
      LogWarn("weights only: the moments of AdamW start at zero{}",
              config_.settings.init_from.warmup_steps > 0
                  ? ""
                  : "; init_from.warmup_steps makes the first updates smaller");
    }
  }
  LoadTensors(source, /*moments=*/whole_run);
}

// Architecture, data and seed must be those of the checkpoint; the rest may change and is logged.
void StateLoader::CheckSameRun(const std::string& path, const std::string& config_text,
                               const checkpoint::TrainState& stored,
                               const checkpoint::TrainState& ours) const {
  std::string refused;
  if (!config_text.empty()) {
    for (const ConfigDifference& d : DiffConfigs(config_text, config_.resolved_text)) {
      const std::string line =
          fmt::format("{}: {} -> {}", d.path, d.before.empty() ? "unset" : d.before,
                      d.after.empty() ? "unset" : d.after);
      if (d.effect == ConfigDifference::Effect::kHarmless) {
        if (world_.rank() == 0) LogInfo("changed since the checkpoint: {}", line);
      } else if (Overridden(d.path)) {
        if (world_.rank() == 0) LogWarn("overridden: {}", line);
      } else {
        refused += "\n  " + line;
      }
    }
  }
  if (refused.empty() && stored.data.fingerprint != ours.data.fingerprint && !Overridden("data")) {
    refused = fmt::format("\n  data: the training data or its order: {} -> {}",
                          stored.data.fingerprint, ours.data.fingerprint);
  }
  if (refused.empty()) return;
  throw UserError(
      fmt::format("{}: this is another run; it differs in{}\nGive the run its old "
                  "settings back, or start a new one in another --run-dir (with "
                  "init_from to keep the weights); --override FIELD takes the new value",
                  path, refused));
}

bool StateLoader::Overridden(std::string_view path) const {
  return std::any_of(options_.overrides.begin(), options_.overrides.end(),
                     [&](const std::string& name) { return Covers(name, path); });
}

// The state of another run, to go on from in this one. `ours` is that of a new run. Formats of
// others do not say which data they read: this run's are taken, from the sample that comes next.
checkpoint::TrainState StateLoader::Continued(const checkpoint::ModelSource& source,
                                              const checkpoint::TrainState& ours) const {
  checkpoint::TrainState state = *source.train_state();
  if (!state.data.fingerprint.empty()) {
    CheckSameRun(source.path(), "", state, ours);
    return state;
  }
  if (world_.rank() == 0) {
    LogWarn("{} does not say which data it was trained on; this run's data go on with sample {}",
            source.path(), state.data.next_sample);
  }
  const int64_t next_sample = state.data.next_sample;
  state.data = ours.data;
  state.data.next_sample = next_sample;
  state.seed = ours.seed;
  state.schedule = ours.schedule;
  state.consumed_tokens = next_sample * ours.data.sequence_length;
  return state;
}

void StateLoader::LoadTensors(const checkpoint::ModelSource& source, bool moments) {
  const auto load = [&](const std::vector<StateTensor>& tensors, checkpoint::Role role) {
    std::vector<checkpoint::PartTarget> parts;  // of one tensor: its rectangles stand together
    std::vector<std::pair<OwnedTensor, const StateTensor*>> staged;  // whose memory is no target
    for (size_t i = 0; i < tensors.size(); ++i) {
      const StateTensor& tensor = tensors[i];
      if (const Shape& stored = source.Get(tensor.name).shape; stored != tensor.global_shape) {
        throw BadData(source.path(), -1,
                      fmt::format("tensor '{}' has shape {}, this run's has {}", tensor.name,
                                  stored, tensor.global_shape));
      }
      TensorView values = tensor.view;
      if (values.raw() == nullptr || values.device() != Device::kCpu) {
        staged.emplace_back(OwnedTensor(values.dtype(), values.shape()), &tensor);
        values = staged.back().first;
      }
      parts.push_back({{tensor.offset, values.shape()}, values});
      if (i + 1 < tensors.size() && tensors[i + 1].name == tensor.name) continue;
      source.ReadParts(tensor.name, parts, role);
      for (const auto& [read, target] : staged) target->Write(read);
      parts.clear();
      staged.clear();
    }
  };
  load(optimizer_.Masters(), checkpoint::Role::kMaster);
  if (moments) {
    load(optimizer_.FirstMoments(), checkpoint::Role::kExpAvg);
    load(optimizer_.SecondMoments(), checkpoint::Role::kExpAvgSq);
  }
}

}  // namespace sepia::trainer
