// The beginning and the end of a run; trainer.cc has what lies between.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "dist/agreement.h"
#include "kernels/device.h"
#include "kernels/gemm_peak.h"
#include "kernels/sep_attention.h"
#include "trainer/flops.h"
#include "trainer/handshake.h"
#include "trainer/header_block.h"
#include "trainer/memory_plan.h"
#include "trainer/run_manifest.h"
#include "trainer/step_traffic.h"
#include "trainer/trainer.h"
#include "trainer/training_data.h"

namespace sepia::trainer {
namespace {

int64_t LastStep(const TrainSettings& settings, const TrainOptions& options) {
  const int64_t total = settings.schedule.total_steps;
  if (options.last_step > total) {
    throw UserError(
        fmt::format("--steps {} is past the end of the run: schedule.total_steps is {}; "
                    "raise that with --set schedule.total_steps={}",
                    options.last_step, total, options.last_step));
  }
  return options.last_step < 0 ? total : options.last_step;
}

// Of large datasets and checkpoints, read for the first time.
constexpr double kLongestStartSeconds = 1800;

std::string_view ScheduleKindName(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kCosine: return "COSINE";
    case ScheduleKind::kLinear: return "LINEAR";
    case ScheduleKind::kConstant: return "CONSTANT";
    case ScheduleKind::kWarmupStableDecay: return "WARMUP_STABLE_DECAY";
  }
  return "?";
}

checkpoint::TrainState NewRun(const TrainSettings& settings, const data::Dataset& data,
                              const LossScaler& scaler) {
  checkpoint::TrainState state;
  state.seed = settings.seed;
  state.loss_scaler = scaler.state();
  state.data = {.fingerprint = data.Fingerprint(),
                .order = settings.data.order == DataOrder::kLinear ? "LINEAR" : "NEOX_MAPS",
                .seed = settings.data.seed,
                .next_sample = 0,
                .sequence_length = settings.data.sequence_length,
                .global_batch = settings.batch.global};
  state.schedule = {.kind = std::string(ScheduleKindName(settings.schedule.kind)),
                    .lr = settings.optimizer.lr,
                    .min_lr = settings.optimizer.min_lr,
                    .warmup_steps = settings.schedule.warmup_steps,
                    .decay_steps = settings.schedule.decay_steps,
                    .total_steps = settings.schedule.total_steps};
  return state;
}

// Of the first global batch that this start will see, for Attn % and FLOPs %.
AttentionWork FirstStepWork(data::BatchLoaderOptions options, const model::AttentionPlan& plan) {
  options.prefetch = 0;
  data::BatchLoader loader(std::move(options));
  AttentionWork work;
  for (int64_t i = 0; i < loader.micro_batches_per_step(); ++i) {
    const Batch batch = loader.Next();
    work += CountAttentionWork(plan, batch.indexes, batch.batch_size, batch.seq_length);
  }
  return work;
}

// Of one rank, per second: given, or measured here and now; 0 on a GPU, which is not measured.
double PeakFlops(const TrainSettings& settings) {
  const double given = settings.logging.peak_gflops;
  if (given > 0) return 1e9 * given;
  if (settings.device != Device::kCpu) return 0;
  return 1e9 * kernels::MeasureGemmPeakGflops(settings.compute_dtype(), NumThreads(settings));
}

GraphRange GraphsOf(const TrainSettings& settings, int64_t data_ranks) {
  if (!settings.cuda_graphs) return {};
  return MicroBatchesAsGraphs(settings.parallel, data_ranks, AccumulationOf(settings, data_ranks));
}

}  // namespace

Trainer::Trainer(LoadedConfig config, const TrainOptions& options, const StopSignals& signals,
                 dist::Mesh& mesh, dist::Watchdog& watchdog)
    : config_(std::move(config)),
      settings_(config_.settings),
      options_(options),
      signals_(signals),
      mesh_(mesh),
      watchdog_(watchdog),
      faults_(
          dist::Agreed(mesh.world(), [&] { return Faults::FromEnvironment(mesh.world().rank()); })),
      directory_(dist::Agreed(
          mesh.world(), [&] { return RunDirectory(settings_.run_dir, mesh.world().rank() == 0); })),
      datasets_(dist::Agreed(mesh.world(),
                             [&] { return OpenDatasets(config_, directory_.File("index_maps")); })),
      model_(settings_.model, ModelOptionsOf(settings_, mesh.data().size()), mesh),
      ctx_{.device = settings_.device,
           .num_threads = NumThreads(settings_),
           .scratch = &model_.scratch(),
           .allow_fallback = settings_.allow_fallback,
           .full_attention = settings_.full_attention},
      optimizer_(settings_.optimizer, model_, mesh, settings_.parallel.zero_stage,
                 settings_.parallel.overlap),
      micro_steps_(model_, optimizer_, GraphsOf(settings_, mesh.data().size())),
      scaler_(settings_.loss_scale, settings_.precision),
      schedule_(MakeSchedule(settings_)),
      attention_plan_(model::MakeAttentionPlan(settings_.model)),
      checkpoints_(config_, options_.checkpointing, optimizer_, mesh.world()),
      state_(NewRun(settings_, *datasets_.train, scaler_)),
      last_step_(dist::Agreed(mesh.world(), [&] { return LastStep(settings_, options); })),
      rank_times_(mesh.world()),
      loss_z_(settings_.safety.zscore_window),
      grad_norm_z_(settings_.safety.zscore_window),
      loss_sum_(DType::kFloat64, {1}, settings_.device),
      grad_scale_(DType::kFloat32, {1}, settings_.device),
      sum_(DType::kFloat64, {1}),
      stop_(DType::kInt32, {1}) {
  // Reading data and weights may take longer than a step.
  const double limit = settings_.safety.hang_seconds;
  watchdog_.Protect({.limit_seconds = limit > 0 ? std::max(limit, kLongestStartSeconds) : 0,
                     .directory = directory_.hang()});
  CompareRanks(mesh.world(), settings_);
  dist::RequireSame(mesh.world(), {.what = "the training data",
                                   .value = state_.data.fingerprint,
                                   .remedy = "give every node the same files"});
  start_ = checkpoints_.LoadOrInitialize(ctx_, &state_);
  first_step_ = state_.step;
  optimizer_.set_updates(state_.applied_steps);
  scaler_.Restore(state_.loss_scaler);
  state_.loss_scaler = scaler_.state();
}

Trainer::~Trainer() = default;

void Trainer::Start() {
  Phase(state_.step, "start");
  const bool writes = mesh_.world().rank() == 0;
  dist::Agree(mesh_.world(), [&] {
    AddLogFile(directory_.File(fmt::format("logs/rank_{}.log", mesh_.world().rank())));
    if (writes) WriteDescription();
    recorder_ = std::make_unique<Recorder>(settings_, directory_, state_.step, last_step_, writes);
    if (settings_.samples.every_steps > 0) {
      samples_ = std::make_unique<SampleWriter>(settings_, directory_.samples());
    }
    loader_ = std::make_unique<data::BatchLoader>(
        LoaderOptions(settings_, mesh_, datasets_.train, state_.consumed_samples));
  });
  ShareHistory();
  peak_flops_ = PeakFlops(settings_);
  if (writes) PrintHeader();
}

// The files that describe the run.
void Trainer::WriteDescription() {
  WriteFileAtomic(directory_.config(), config_.resolved_text);
  WriteRunManifest(
      directory_.manifest(),
      {.seed = settings_.seed,
       .numerics = NumericsName(settings_.numerics),
       .precision = PrecisionName(settings_.precision),
       .parameters = settings_.model.num_parameters(),
       .train_fingerprint = state_.data.fingerprint,
       .valid_fingerprint = datasets_.valid == nullptr ? "" : datasets_.valid->Fingerprint(),
       .config_sha256 = Sha256Hex(config_.resolved_text),
       .first_step = state_.step,
       .ranks = mesh_.world().size(),
       .threads = ctx_.num_threads,
       .attention_isa = kernels::SepAttentionKernelName(ctx_, settings_.compute_dtype(),
                                                        settings_.model.head_dim())});
}

// All ranks judge a step by the same past, which rank 0 has read.
void Trainer::ShareHistory() {
  std::vector<double> past;
  for (const StepMetrics& step : recorder_->history()) {
    past.push_back(step.loss);
    past.push_back(step.grad_norm);
  }
  auto count = static_cast<int64_t>(past.size());
  dist::Communicator& world = mesh_.world();
  world.Broadcast(ctx_, TensorView(&count, DType::kInt64, {1}), 0, "history size").Wait();
  past.resize(static_cast<size_t>(count));
  world.Broadcast(ctx_, TensorView::Of(std::span(past), {count}), 0, "history").Wait();
  for (size_t i = 0; i < past.size(); i += 2) {
    loss_z_.Push(past[i]);
    grad_norm_z_.Push(past[i + 1]);
  }
}

void Trainer::PrintHeader() {
  HeaderFacts facts;
  facts.ranks = mesh_.world().size();
  facts.data_ranks = mesh_.data().size();
  facts.threads = ctx_.num_threads;
  facts.memory_bytes = PlanMemory(settings_, mesh_.data().size()).total();
  facts.peak_gflops = peak_flops_ / 1e9;
  facts.first_step = FirstStepWork(
      LoaderOptions(settings_, mesh_, datasets_.train, state_.consumed_samples), attention_plan_);
  facts.attention_kernels = model_.DescribeAttention(ctx_);
  facts.device = kernels::DeviceName(settings_.device);
  if (settings_.cuda_graphs) facts.graphs = micro_steps_.graph_range().Describe();
  facts.train_data = datasets_.train->Describe();
  facts.start = start_;
  for (const std::string& line : HeaderBlock(config_, facts)) LogInfo("{}", line);
}

void Trainer::PrintFooter() const {
  if (stopped_ && state_.step == first_step_) {
    LogInfo("stopped before step {}/{}: nothing was trained", state_.step + 1,
            settings_.schedule.total_steps);
    return;
  }
  const std::string best = std::isnan(recorder_->best_valid_loss())
                               ? std::string()
                               : fmt::format(", best valid {:.4f}", recorder_->best_valid_loss());
  LogInfo("{} after step {}/{}: loss {:.4f}{}, {} tokens seen, {} skipped updates",
          stopped_ ? "stopped" : "done", state_.step, settings_.schedule.total_steps,
          state_.last_loss, best, state_.consumed_tokens, state_.skipped_steps);
  LogInfo("checkpoints in {}; try: sepia generate --model {} --prompt ...",
          settings_.checkpoint.dir, settings_.run_dir);
}

}  // namespace sepia::trainer
