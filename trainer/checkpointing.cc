#include "trainer/checkpointing.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <utility>

#include <fmt/core.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/reader.h"
#include "checkpoint/sepia_source.h"
#include "checkpoint/step_directories.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

constexpr int64_t kMaxTokenizerBytes = int64_t{256} << 20;

std::vector<checkpoint::Attachment> Attachments(const TrainSettings& settings) {
  if (settings.data.tokenizer.empty()) return {};
  return {{"tokenizer.json", ReadFile(settings.data.tokenizer, kMaxTokenizerBytes)}};
}

checkpoint::CheckpointWriterOptions WriterOptions(const CheckpointSettings& settings) {
  return {.dir = settings.dir,
          .retention = {.keep_last = settings.keep_last,
                        .keep_every = settings.keep_every,
                        .keep_log_spaced = settings.log_spaced},
          .before_stage = nullptr};
}

}  // namespace

Checkpointing::Checkpointing(const LoadedConfig& config, AdamW& optimizer)
    : config_(config),
      settings_(config.settings.checkpoint),
      optimizer_(optimizer),
      writer_(WriterOptions(settings_)),
      attachments_(Attachments(config.settings)) {}

Checkpointing::~Checkpointing() {
  if (under_way_.valid()) under_way_.wait();
}

std::string Checkpointing::LoadOrInitialize(kernels::Context& ctx, bool fresh,
                                            checkpoint::TrainState* state) {
  if (const auto newest = checkpoint::NewestCheckpoint(settings_.dir)) {
    if (fresh) {
      throw UserError(
          fmt::format("--fresh: {} already holds a checkpoint; leave --fresh out to "
                      "resume, or choose another --run-dir",
                      *newest));
    }
    return Resume(ctx, *newest, state);
  }
  if (!config_.settings.init_from.path.empty()) return StartFrom(ctx, state);
  optimizer_.InitializeWeights(ctx, config_.settings.seed);
  return fmt::format("random weights of seed {}", config_.settings.seed);
}

std::string Checkpointing::Resume(kernels::Context& ctx, const std::string& path,
                                  checkpoint::TrainState* state) {
  const checkpoint::CheckpointReader reader(path);
  if (reader.train_state() == nullptr) {
    throw UserError(ExitCode::kBadData,
                    fmt::format("{}: holds weights only, so a run cannot be resumed from it; start "
                                "one with init_from {{ path: \"{}\" }} in another directory",
                                path, path));
  }
  CheckSameRun(path, reader.config_text(), *reader.train_state(), *state);
  LoadTensors(ctx, *checkpoint::OpenSepiaCheckpoint(path), /*moments=*/true);
  checkpoint::TrainState resumed = *reader.train_state();
  resumed.schedule = state->schedule;  // a changed one is allowed, and was logged
  *state = std::move(resumed);
  last_saved_step_ = state->step;
  return fmt::format("resuming {} after step {}", path, state->step);
}

std::string Checkpointing::StartFrom(kernels::Context& ctx, checkpoint::TrainState* state) {
  const InitFromSettings& init = config_.settings.init_from;
  const auto source = checkpoint::OpenModelSource(init.path);
  const bool whole_run = !init.weights_only;
  if (whole_run) {
    if (source->train_state() == nullptr || !source->Has(checkpoint::Role::kExpAvg)) {
      throw UserError(
          fmt::format("init_from: {} ({}) has no optimizer state; set "
                      "init_from.weights_only: true",
                      source->path(), source->format()));
    }
    *state = Continued(*source, *state);
  }
  LoadTensors(ctx, *source, /*moments=*/whole_run);
  return fmt::format("{} of {} ({})", whole_run ? "weights and optimizer" : "weights",
                     source->path(), source->format());
}

// Architecture, data and seed must be those of the checkpoint; the rest may change and is logged.
void Checkpointing::CheckSameRun(const std::string& path, const std::string& config_text,
                                 const checkpoint::TrainState& stored,
                                 const checkpoint::TrainState& ours) const {
  std::string refused;
  if (!config_text.empty()) {
    for (const ConfigDifference& d : DiffConfigs(config_text, config_.resolved_text)) {
      const std::string line =
          fmt::format("{}: {} -> {}", d.path, d.before.empty() ? "unset" : d.before,
                      d.after.empty() ? "unset" : d.after);
      if (d.effect == ConfigDifference::Effect::kRefuse) {
        refused += "\n  " + line;
      } else {
        LogInfo("changed since the checkpoint: {}", line);
      }
    }
  }
  if (refused.empty() && stored.data.fingerprint != ours.data.fingerprint) {
    refused = fmt::format("\n  the training data or its order: {} -> {}", stored.data.fingerprint,
                          ours.data.fingerprint);
  }
  if (refused.empty()) return;
  throw UserError(
      fmt::format("{}: this is another run; it differs in{}\nGive the run its old "
                  "settings back, or start a new one in another --run-dir (with "
                  "init_from to keep the weights)",
                  path, refused));
}

// The state of another run, to go on from in this one. `ours` is that of a new run. Formats of
// others do not say which data they read: this run's are taken, from the sample that comes next.
checkpoint::TrainState Checkpointing::Continued(const checkpoint::ModelSource& source,
                                                const checkpoint::TrainState& ours) const {
  checkpoint::TrainState state = *source.train_state();
  if (!state.data.fingerprint.empty()) {
    CheckSameRun(source.path(), "", state, ours);
    return state;
  }
  LogWarn("{} does not say which data it was trained on; this run's data go on with sample {}",
          source.path(), state.data.next_sample);
  const int64_t next_sample = state.data.next_sample;
  state.data = ours.data;
  state.data.next_sample = next_sample;
  state.seed = ours.seed;
  state.schedule = ours.schedule;
  state.consumed_tokens = next_sample * ours.data.sequence_length;
  return state;
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

std::vector<checkpoint::CheckpointTensor> Checkpointing::Tensors() const {
  std::vector<checkpoint::CheckpointTensor> tensors;
  const auto add = [&](std::vector<NamedTensor> named, checkpoint::Role role) {
    for (NamedTensor& tensor : named) {
      tensors.push_back({.tensor = std::move(tensor), .role = role, .read = nullptr});
    }
  };
  add(optimizer_.Masters(), checkpoint::Role::kMaster);
  add(optimizer_.FirstMoments(), checkpoint::Role::kExpAvg);
  add(optimizer_.SecondMoments(), checkpoint::Role::kExpAvgSq);
  return tensors;
}

// The same tensors as they are at this moment, in memory of their own.
std::vector<checkpoint::CheckpointTensor> Checkpointing::Snapshot() {
  std::vector<checkpoint::CheckpointTensor> tensors = Tensors();
  int64_t bytes = 0;
  for (const auto& t : tensors) bytes += t.tensor.view.num_bytes();
  if (snapshot_.size() != bytes) snapshot_ = Buffer(bytes, "a snapshot for background saves");
  std::byte* to = snapshot_.data();
  for (auto& t : tensors) {
    const TensorView view = t.tensor.view;
    std::memcpy(to, view.raw(), static_cast<size_t>(view.num_bytes()));
    t.tensor.view = TensorView(to, view.dtype(), view.shape());
    to += view.num_bytes();
  }
  return tensors;
}

Checkpointing::Outcome Checkpointing::Write(
    const std::vector<checkpoint::CheckpointTensor>& tensors, const checkpoint::TrainState& state) {
  const Timer timer;
  Outcome outcome;
  try {
    outcome.path = writer_.Save({.step = state.step,
                                 .model = &config_.resolved->model(),
                                 .tensors = tensors,
                                 .train_state = &state,
                                 .config_text = config_.resolved_text,
                                 .attachments = attachments_});
  } catch (const std::exception& error) {
    outcome.error = error.what();
  }
  outcome.seconds = timer.Seconds();
  return outcome;
}

void Checkpointing::Save(const checkpoint::TrainState& state) {
  Collect();
  last_saved_step_ = state.step;
  if (settings_.async) {
    under_way_ = std::async(std::launch::async,
                            [this, tensors = Snapshot(), state] { return Write(tensors, state); });
    return;
  }
  std::promise<Outcome> done;
  done.set_value(Write(Tensors(), state));
  under_way_ = done.get_future();
  Collect();
}

void Checkpointing::Poll() {
  if (under_way_.valid() &&
      under_way_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    Collect();
  }
}

void Checkpointing::Collect() {
  if (!under_way_.valid()) return;
  const Outcome outcome = under_way_.get();
  save_seconds_ = std::max(save_seconds_, outcome.seconds);
  last_error_ = outcome.error;
  if (outcome.error.empty()) {
    failures_in_a_row_ = 0;
    LogInfo("saved {} in {:.1f} s", outcome.path, outcome.seconds);
    return;
  }
  ++failures_in_a_row_;
  if (failures_in_a_row_ >= settings_.max_failures) {
    throw UserError(ExitCode::kCannotWrite,
                    fmt::format("{} checkpoints in a row could not be saved; the last one: {}",
                                failures_in_a_row_, outcome.error));
  }
  LogWarn("checkpoint not saved ({} of {} failures in a row that are tolerated): {}",
          failures_in_a_row_, settings_.max_failures - 1, outcome.error);
}

void Checkpointing::Finish() {
  Collect();
  if (!last_error_.empty()) {
    throw UserError(ExitCode::kCannotWrite,
                    fmt::format("the last checkpoint could not be saved: {}", last_error_));
  }
}

}  // namespace sepia::trainer
