#include "trainer/checkpointing.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/rectangle.h"
#include "dist/agreement.h"
#include "dist/gather.h"
#include "kernels/cpu/parallel.h"
#include "trainer/memory_plan.h"
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
      world_(world),
      loader_(config_, options_, optimizer_, world_) {
  dist::Agree(world_, [&] {
    if (world_.rank() != 0) return;
    writer_ = std::make_unique<checkpoint::CheckpointWriter>(
        WriterOptions(settings_, options_.verify_after_save));
    attachments_ = Attachments(config.settings);
  });
}

Checkpointing::~Checkpointing() {
  if (under_way_.valid()) under_way_.wait();
}

std::string Checkpointing::LoadOrInitialize(kernels::Context& ctx, checkpoint::TrainState* state) {
  bool resumed = false;
  const std::string start = loader_.LoadOrInitialize(ctx, state, &resumed);
  if (resumed) last_saved_step_ = state->step;
  return start;
}

// log_spaced: Pythia's 0, 1, 2, 4, ..., 512.
bool Checkpointing::Due(int64_t step) const {
  constexpr int64_t kLastLogSpaced = 512;
  const bool power = step == 0 || std::has_single_bit(static_cast<uint64_t>(step));
  if (settings_.log_spaced && step <= kLastLogSpaced && power) return true;
  return settings_.every_steps > 0 && step > 0 && step % settings_.every_steps == 0;
}

// What this rank saves.
std::vector<std::pair<StateTensor, checkpoint::Role>> Checkpointing::States() const {
  std::vector<std::pair<StateTensor, checkpoint::Role>> states;
  const auto add = [&](std::vector<StateTensor> tensors, checkpoint::Role role) {
    for (StateTensor& tensor : tensors) states.emplace_back(std::move(tensor), role);
  };
  constexpr auto kShare = AdamW::Share::kSaved;
  add(optimizer_.Masters(kShare), checkpoint::Role::kMaster);
  add(optimizer_.FirstMoments(kShare), checkpoint::Role::kExpAvg);
  add(optimizer_.SecondMoments(kShare), checkpoint::Role::kExpAvgSq);
  return states;
}

// Where they lie.
std::vector<checkpoint::CheckpointTensor> Checkpointing::Tensors() const {
  std::vector<checkpoint::CheckpointTensor> tensors;
  for (const auto& [state, role] : States()) {
    tensors.push_back({.tensor = state, .role = role, .read = nullptr});
    if (state.view.raw() == nullptr) tensors.back().read = ReaderOf(state);
  }
  return tensors;
}

// As they are at this moment, in host memory of their own. The run waits for this copy: all its
// threads make it.
std::vector<checkpoint::CheckpointTensor> Checkpointing::Snapshot() {
  constexpr int64_t kGrain = int64_t{1} << 18;  // elements: 1 MiB
  const std::vector<std::pair<StateTensor, checkpoint::Role>> states = States();
  int64_t bytes = 0;
  for (const auto& [state, role] : states) bytes += state.view.num_bytes();
  if (snapshot_.size() != bytes) snapshot_ = Buffer(bytes, "a snapshot for background saves");
  struct Part {
    const StateTensor* from;
    int64_t begin;
    TensorView to;
  };
  std::vector<Part> parts;
  std::vector<checkpoint::CheckpointTensor> tensors;
  std::byte* memory = snapshot_.data();
  for (const auto& [state, role] : states) {
    const TensorView copy(memory, state.view.dtype(), state.view.shape());
    memory += copy.num_bytes();
    const int64_t count = copy.num_elements();
    for (int64_t begin = 0; begin < count; begin += kGrain) {
      parts.push_back(
          {&state, begin, copy.Reshaped({count}).Rows(begin, std::min(kGrain, count - begin))});
    }
    tensors.push_back({.tensor = state, .role = role, .read = nullptr});
    tensors.back().tensor.view = copy;
  }
  const TrainSettings& settings = config_.settings;
  const kernels::Context threads{.num_threads =
                                     settings.device == Device::kCpu ? NumThreads(settings) : 1};
  kernels::cpu::ParallelFor(threads, static_cast<int64_t>(parts.size()), [&](int64_t i) {
    const Part& part = parts[static_cast<size_t>(i)];
    part.from->Read(part.begin, part.to);
  });
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

void Checkpointing::Save(const checkpoint::TrainState& state, std::function<void()> before_commit) {
  Collect();
  last_saved_step_ = state.step;
  saved_state_ = state;
  before_commit_ = std::move(before_commit);
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
    if (before_commit_) before_commit_();
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
