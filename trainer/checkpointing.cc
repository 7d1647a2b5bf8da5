#include "trainer/checkpointing.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/device_memory.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/reader.h"
#include "checkpoint/rectangle.h"
#include "checkpoint/sepia_source.h"
#include "checkpoint/step_directories.h"
#include "dist/agreement.h"
#include "dist/gather.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

constexpr int64_t kMaxTokenizerBytes = int64_t{256} << 20;

std::vector<checkpoint::Attachment> Attachments(const TrainSettings& settings) {
  if (settings.data.tokenizer.empty()) return {};
  return {{"tokenizer.json", ReadFile(settings.data.tokenizer, kMaxTokenizerBytes)}};
}

checkpoint::CheckpointWriterOptions WriterOptions(const CheckpointSettings& settings, bool verify) {
  return {.dir = settings.dir,
          .retention = {.keep_last = settings.keep_last,
                        .keep_every = settings.keep_every,
                        .keep_log_spaced = settings.log_spaced},
          .verify = verify,
          .before_stage = nullptr};
}

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

// For CheckpointTensor::read: values whose memory holds them in another form.
auto ReaderOf(const StateTensor& state) {
  return [state](const checkpoint::Rectangle& part, const TensorView& out) {
    const TensorView values = out.Reshaped({out.num_elements()});
    checkpoint::ForEachRun(
        part, {state.offset, state.view.shape()}, part,
        [&](int64_t from, int64_t to, int64_t count) { state.Read(from, values.Rows(to, count)); });
  };
}

}  // namespace

Checkpointing::Checkpointing(const LoadedConfig& config, CheckpointingOptions options,
                             AdamW& optimizer, dist::Communicator& world)
    : config_(config),
      options_(std::move(options)),
      settings_(config.settings.checkpoint),
      optimizer_(optimizer),
      world_(world) {
  dist::Agree(world_, [&] {
    RequireFields(options_.overrides, config);
    if (world_.rank() != 0) return;
    writer_ = std::make_unique<checkpoint::CheckpointWriter>(
        WriterOptions(settings_, options_.verify_after_save));
    attachments_ = Attachments(config.settings);
  });
}

Checkpointing::~Checkpointing() {
  if (under_way_.valid()) under_way_.wait();
}

// The checkpoints to resume from, newest first: one, unless older ones will do. As rank 0 sees
// them: the others may look at a stale directory.
std::vector<std::string> Checkpointing::PathsToTry() {
  std::vector<std::string> paths;
  dist::Agree(world_, [&] {
    if (world_.rank() != 0) return;
    if (options_.fallback_to_older) {
      for (const auto& candidate : checkpoint::FindCheckpoints(settings_.dir)) {
        paths.push_back(candidate.path);
      }
    }
    if (paths.empty()) {
      if (auto newest = checkpoint::NewestCheckpoint(settings_.dir)) paths.push_back(*newest);
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
std::string Checkpointing::LoadNewest(const std::vector<std::string>& paths,
                                      checkpoint::TrainState* state) {
  size_t first = 0;
  while (true) {
    try {
      dist::Agree(world_, [&] { Load(paths[first], state); });
      break;
    } catch (const Error& error) {
      if (error.code() != ExitCode::kBadData || first + 1 == paths.size()) throw;
      if (world_.rank() == 0) LogWarn("--fallback-to-older: {}", error.what());
    }
    ++first;
  }
  // Now: the next start must not stumble over them again.
  dist::Agree(world_, [&] {
    for (size_t i = 0; world_.rank() == 0 && i < first; ++i) {
      LogWarn("{} is damaged; it is now {}", paths[i], checkpoint::SetAside(paths[i]));
    }
  });
  return paths[first];
}

std::string Checkpointing::LoadOrInitialize(kernels::Context& ctx, checkpoint::TrainState* state) {
  std::string start;
  const std::vector<std::string> paths = PathsToTry();
  const InitFromSettings& init = config_.settings.init_from;
  if (!paths.empty()) {
    const std::string path = LoadNewest(paths, state);
    last_saved_step_ = state->step;
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

void Checkpointing::Load(const std::string& path, checkpoint::TrainState* state) {
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

void Checkpointing::StartFrom(const checkpoint::ModelSource& source,
                              checkpoint::TrainState* state) {
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
void Checkpointing::CheckSameRun(const std::string& path, const std::string& config_text,
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

bool Checkpointing::Overridden(std::string_view path) const {
  return std::any_of(options_.overrides.begin(), options_.overrides.end(),
                     [&](const std::string& name) { return Covers(name, path); });
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

void Checkpointing::LoadTensors(const checkpoint::ModelSource& source, bool moments) {
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

// log_spaced: Pythia's 0, 1, 2, 4, ..., 512.
bool Checkpointing::Due(int64_t step) const {
  constexpr int64_t kLastLogSpaced = 512;
  const bool power = step == 0 || std::has_single_bit(static_cast<uint64_t>(step));
  if (settings_.log_spaced && step <= kLastLogSpaced && power) return true;
  return settings_.every_steps > 0 && step > 0 && step % settings_.every_steps == 0;
}

std::vector<checkpoint::CheckpointTensor> Checkpointing::Tensors() const {
  std::vector<checkpoint::CheckpointTensor> tensors;
  const auto add = [&](const std::vector<StateTensor>& states, checkpoint::Role role) {
    for (const StateTensor& state : states) {
      tensors.push_back({.tensor = state, .role = role, .read = nullptr});
      if (state.view.raw() == nullptr) tensors.back().read = ReaderOf(state);
    }
  };
  constexpr auto kShare = AdamW::Share::kSaved;
  add(optimizer_.Masters(kShare), checkpoint::Role::kMaster);
  add(optimizer_.FirstMoments(kShare), checkpoint::Role::kExpAvg);
  add(optimizer_.SecondMoments(kShare), checkpoint::Role::kExpAvgSq);
  return tensors;
}

// The same tensors as they are at this moment, in host memory of their own.
std::vector<checkpoint::CheckpointTensor> Checkpointing::Snapshot() {
  std::vector<checkpoint::CheckpointTensor> tensors = Tensors();
  int64_t bytes = 0;
  for (const auto& t : tensors) bytes += t.tensor.view.num_bytes();
  if (snapshot_.size() != bytes) snapshot_ = Buffer(bytes, "a snapshot for background saves");
  std::byte* to = snapshot_.data();
  for (auto& t : tensors) {
    const TensorView view = t.tensor.view;
    t.tensor.view = TensorView(to, view.dtype(), view.shape());
    if (t.read) {
      t.read({t.tensor.offset, view.shape()}, t.tensor.view);
      t.read = nullptr;
    } else {
      CopyTensor(view, t.tensor.view);
    }
    to += view.num_bytes();
  }
  return tensors;
}

// Agrees on a directory; false when it could not be made, which counts as a failed save.
bool Checkpointing::BeginOnAllRanks(int64_t step) {
  Outcome outcome;
  if (writer_ != nullptr) {
    try {
      attempt_ = writer_->Begin(step, world_.size());
    } catch (const std::exception& error) {
      outcome.error = error.what();
    }
  }
  outcome.error = dist::BroadcastText(world_, outcome.error, 0, "save: begin");
  if (!outcome.error.empty()) {
    Conclude(outcome);
    return false;
  }
  const std::string uuid(attempt_.uuid.begin(), attempt_.uuid.end());
  const std::string shared_uuid = dist::BroadcastText(world_, uuid, 0, "save: uuid");
  std::copy(shared_uuid.begin(), shared_uuid.end(), attempt_.uuid.begin());
  attempt_.directory = dist::BroadcastText(world_, attempt_.directory, 0, "save: directory");
  attempt_.step = step;
  attempt_.num_shards = world_.size();
  return true;
}

// In the background, or at once.
void Checkpointing::Run(std::function<std::string()> work) {
  const auto policy = settings_.async ? std::launch::async : std::launch::deferred;
  under_way_ = std::async(policy, [work = std::move(work)] {
    const Timer timer;
    Outcome outcome;
    try {
      outcome.text = work();
    } catch (const std::exception& error) {
      outcome.error = error.what();
    }
    outcome.seconds = timer.Seconds();
    return outcome;
  });
}

void Checkpointing::Save(const checkpoint::TrainState& state) {
  Collect();
  last_saved_step_ = state.step;
  saved_state_ = state;
  seconds_so_far_ = 0;
  if (!BeginOnAllRanks(state.step)) return;
  phase_ = Phase::kWriting;
  const bool needs_snapshot = settings_.async || config_.settings.device != Device::kCpu;
  Run([this, tensors = needs_snapshot ? Snapshot() : Tensors()] {
    return checkpoint::WriteShardOf(attempt_, world_.rank(), tensors, options_.verify_after_save);
  });
  if (!settings_.async) Collect();
}

bool Checkpointing::AllReady() {
  kernels::Context ctx;
  int32_t ready = !under_way_.valid() ||
                  under_way_.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
  world_.AllReduce(ctx, TensorView(&ready, DType::kInt32, {1}), dist::ReduceOp::kMin, "save: poll")
      .Wait();
  return ready != 0;
}

void Checkpointing::Poll() {
  if (phase_ != Phase::kNone && AllReady()) Advance();
}

// Ends the present phase, waiting for this rank's part of it, and begins the next one.
void Checkpointing::Advance() {
  const Outcome own = under_way_.valid() ? under_way_.get() : Outcome();
  seconds_so_far_ += own.seconds;
  if (phase_ == Phase::kWriting) {
    const std::vector<std::string> errors = dist::GatherTexts(world_, own.error, "save: errors");
    const std::vector<std::string> reports = dist::GatherTexts(world_, own.text, "save: reports");
    const auto failed = std::find_if(errors.begin(), errors.end(),
                                     [](const std::string& error) { return !error.empty(); });
    if (failed == errors.end()) return StartCommit(reports);
    if (writer_ != nullptr) writer_->Abandon(attempt_);
    return Conclude({.error = *failed});
  }
  Conclude({.error = dist::BroadcastText(world_, own.error, 0, "save: outcome"),
            .text = dist::BroadcastText(world_, own.text, 0, "save: path")});
}

void Checkpointing::StartCommit(const std::vector<std::string>& reports) {
  phase_ = Phase::kCommitting;
  if (writer_ == nullptr) return;
  Run([this, reports] {
    return writer_->Commit(attempt_,
                           {.step = saved_state_.step,
                            .model = &config_.resolved->model(),
                            .tensors = {},
                            .train_state = &saved_state_,
                            .config_text = config_.resolved_text,
                            .attachments = attachments_},
                           reports);
  });
}

void Checkpointing::Collect() {
  while (phase_ != Phase::kNone) Advance();
}

void Checkpointing::Conclude(const Outcome& outcome) {
  phase_ = Phase::kNone;
  save_seconds_ = std::max(save_seconds_, seconds_so_far_);
  last_error_ = outcome.error;
  if (outcome.error.empty()) {
    failures_in_a_row_ = 0;
    LogInfo("saved {} in {:.1f} s", outcome.text, seconds_so_far_);
    return;
  }
  ++failures_in_a_row_;
  if (failures_in_a_row_ >= settings_.max_failures) {
    dist::Agree(world_, [&] {
      throw UserError(ExitCode::kCannotWrite,
                      fmt::format("{} checkpoints in a row could not be saved; the last one: {}",
                                  failures_in_a_row_, outcome.error));
    });
  }
  if (world_.rank() == 0) {
    LogWarn("checkpoint not saved ({} of {} failures in a row that are tolerated): {}",
            failures_in_a_row_, settings_.max_failures - 1, outcome.error);
  }
}

void Checkpointing::Finish() {
  Collect();
  dist::Agree(world_, [&] {
    if (last_error_.empty()) return;
    throw UserError(ExitCode::kCannotWrite,
                    fmt::format("the last checkpoint could not be saved: {}", last_error_));
  });
}

}  // namespace sepia::trainer
