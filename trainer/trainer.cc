#include "trainer/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/device_memory.h"
#include "base/log.h"
#include "dist/agreement.h"
#include "dist/flight_recorder.h"
#include "trainer/evaluation.h"
#include "trainer/flops.h"
#include "trainer/non_finite.h"
#include "trainer/process.h"
#include "trainer/replicas.h"

namespace sepia::trainer {

ExitCode Trainer::Run() {
  Start();
  watchdog_.Protect(
      {.limit_seconds = settings_.safety.hang_seconds, .directory = directory_.hang()});
  if (state_.step == 0 && checkpoints_.Due(0)) Save();
  while (state_.step < last_step_ && !StopRequested()) {
    StepMetrics metrics = Step();
    if (ValidationDue()) metrics.valid_loss = Validate();
    recorder_->Record(metrics);
    JudgeStep(metrics);
    ReportSlowRank();
    if (samples_ != nullptr && samples_->Due(state_.step)) WriteSamples();
    checkpoints_.Poll();
    if (checkpoints_.Due(state_.step)) Save();
  }
  return Finish();
}

void Trainer::Phase(int64_t step, const char* phase) {
  if (const auto recorder = mesh_.world().recorder()) recorder->SetPhase(step, phase);
  faults_.Strike(step, phase);
}

bool Trainer::FaultIs(const char* kind, const char* phase) const {
  return faults_.Has(kind, state_.step + 1, phase);
}

void Trainer::FlipOneBit() {
  optimizer_.WaitForWeights(ctx_);  // a gather under way would write over it
  const TensorView weights = model_.weights();
  const TensorView byte(weights.raw(), DType::kUInt8, {1}, weights.device());
  WriteScalar(byte, static_cast<uint8_t>(ReadScalar<uint8_t>(byte) ^ 0x10));
}

StepMetrics Trainer::Step() {
  const Timer timer;
  communication_ = CommunicationSoFar();
  Phase(state_.step + 1, "data");
  const std::vector<Batch> micro_batches = NextMicroBatches();
  const double targets = CountTargets(micro_batches);
  const double loss_scale = scaler_.scale();
  WriteScalar(grad_scale_, static_cast<float>(loss_scale / targets));

  // After the sum over ranks nothing tells whose gradient was bad: after a bad step the sum waits.
  optimizer_.set_overlap(settings_.parallel.overlap && state_.skipped_in_a_row == 0);
  if (FaultIs("nan", "gradients")) WriteScalar(grad_scale_, NAN);
  if (FaultIs("inf", "gradients")) WriteScalar(grad_scale_, INFINITY);
  micro_steps_.Run(ctx_, micro_batches,
                   {.grad_scale = grad_scale_,
                    .loss_sum = loss_sum_,
                    .phase = [this](const char* name) { Phase(state_.step + 1, name); }});
  Phase(state_.step + 1, "gradients");
  if (state_.skipped_in_a_row > 0) non_finite_ = FirstNonFiniteGradient(model_);
  optimizer_.MeasureGradients(ctx_, loss_scale);

  StepMetrics metrics;
  metrics.loss = SumOverDataRanks(ReadScalar<double>(loss_sum_), "loss") / targets;
  metrics.grad_norm = optimizer_.grad_norm();
  metrics.loss_z = loss_z_.Push(metrics.loss);
  metrics.grad_norm_z = grad_norm_z_.Push(metrics.grad_norm);
  metrics.loss_scale = loss_scale;
  metrics.lr = NextLearningRate();
  metrics.update_skipped = !metrics.finite() || IsSpike(metrics);
  Phase(state_.step + 1, "update");
  if (!metrics.update_skipped) optimizer_.Update(ctx_, metrics.lr);
  if (FaultIs("flip", "update")) FlipOneBit();
  Advance(&metrics);
  const int64_t every = settings_.safety.replica_check_steps;
  if (every > 0 && state_.step % every == 0) RequireEqualReplicas();
  MeasureSpeed(micro_batches, timer.Seconds(), &metrics);
  return metrics;
}

// All of a step, because the gradients are divided by the number of targets of the global batch.
std::vector<Batch> Trainer::NextMicroBatches() {
  std::vector<Batch> batches;
  for (int64_t i = 0; i < loader_->micro_batches_per_step(); ++i) {
    batches.push_back(loader_->Next());
  }
  return batches;
}

double Trainer::CountTargets(const std::vector<Batch>& micro_batches) {
  int64_t count = 0;
  for (const Batch& batch : micro_batches) count += batch.num_targets();
  if (FaultIs("skip", "data")) return static_cast<double>(std::max<int64_t>(1, count));
  // At least one, so that a step whose targets are all masked has loss and gradient zero.
  return std::max(1.0, SumOverDataRanks(static_cast<double>(count), "targets"));
}

double Trainer::SumOverDataRanks(double value, const char* label) {
  *sum_.data<double>() = value;
  mesh_.data().AllReduce(ctx_, sum_, dist::ReduceOp::kSum, label).Wait();
  return *sum_.data<double>();
}

// Steps that the initial weights had behind them count for the schedule, not for Adam's t.
double Trainer::NextLearningRate() const {
  const InitFromSettings& init = settings_.init_from;
  const int64_t before =
      init.fresh_schedule ? 0 : state_.step - state_.applied_steps - state_.skipped_steps;
  const double rate = LearningRate(schedule_, before + optimizer_.updates());
  const int64_t warmup = init.warmup_steps;
  if (optimizer_.updates() >= warmup) return rate;
  return rate * static_cast<double>(optimizer_.updates()) / static_cast<double>(warmup);
}

bool Trainer::IsSpike(const StepMetrics& metrics) const {
  const SafetySettings& safety = settings_.safety;
  return (safety.skip_loss_zscore > 0 && metrics.loss_z > safety.skip_loss_zscore) ||
         (safety.skip_grad_norm_zscore > 0 && metrics.grad_norm_z > safety.skip_grad_norm_zscore);
}

// A skipped update consumes its data and counts as a step; the learning rate stands still, as in
// DeepSpeed.
void Trainer::Advance(StepMetrics* metrics) {
  ++state_.step;
  state_.applied_steps = optimizer_.updates();
  state_.consumed_samples += settings_.batch.global;
  state_.consumed_tokens += settings_.tokens_per_step();
  state_.skipped_steps += metrics->update_skipped;
  state_.skipped_in_a_row = metrics->finite() ? 0 : state_.skipped_in_a_row + 1;
  state_.last_loss = metrics->loss;
  state_.data.next_sample = state_.consumed_samples;
  metrics->step = state_.step;
  metrics->tokens = state_.consumed_tokens;
  metrics->skipped = state_.skipped_steps;
}

CommunicationTime Trainer::CommunicationSoFar() {
  CommunicationTime time;
  for (const dist::Communicator* group : {&mesh_.world(), &mesh_.data(), &mesh_.tensor()}) {
    const dist::Traffic traffic = group->traffic();
    time.busy += traffic.busy_seconds;
    time.waited += traffic.waited_seconds;
  }
  return time;
}

void Trainer::MeasureSpeed(const std::vector<Batch>& micro_batches, double seconds,
                           StepMetrics* metrics) {
  AttentionWork work;
  for (const Batch& batch : micro_batches) {
    work += CountAttentionWork(attention_plan_, batch.indexes, batch.batch_size, batch.seq_length);
  }
  const auto data_ranks = static_cast<double>(mesh_.data().size());
  metrics->attn_kept = work.kept_share();
  work.visited_pairs *= data_ranks;
  metrics->flops = TrainingFlops(settings_.model, settings_.tokens_per_step(), work);
  metrics->step_ms = 1000 * seconds;
  metrics->data_ms = 1000 * loader_->TakeSecondsWaited();
  const CommunicationTime communication = CommunicationSoFar() - communication_;
  metrics->comm_ms = 1000 * communication.waited;
  metrics->comm_hidden = communication.hidden_share();
  metrics->rank_step_ms =
      rank_times_.Share(ctx_, metrics->step_ms, metrics->data_ms, metrics->comm_ms);
  metrics->tokens_per_s = static_cast<double>(settings_.tokens_per_step()) / seconds;
  if (peak_flops_ > 0) {
    metrics->mfu = metrics->flops / (peak_flops_ * mesh_.world().size() * seconds);
  }
  metrics->rss_bytes = ResidentBytes();
}

// After the step is on record: what it means for the next ones.
void Trainer::JudgeStep(const StepMetrics& metrics) {
  scaler_.Update(/*overflow=*/!metrics.finite(), state_.step);
  state_.loss_scaler = scaler_.state();
  const int64_t limit = settings_.safety.max_skipped_in_a_row;
  if (limit > 0 && state_.skipped_in_a_row >= limit) {
    std::string origin = NonFiniteOrigin(mesh_.world(), non_finite_);
    if (!origin.empty()) origin = ", first the gradient of " + origin;
    dist::Agree(mesh_.world(), [&] {
      throw Error(
          ExitCode::kNumerical,
          fmt::format("step {}: loss or gradients were not finite in {} steps in a row{}; the "
                      "run has diverged: resume from an older checkpoint with a lower "
                      "optimizer.lr (safety.max_skipped_in_a_row sets the limit)",
                      state_.step, limit, origin));
    });
  }
}

bool Trainer::ValidationDue() const {
  const int64_t every = settings_.eval.every_steps;
  if (every == 0 || datasets_.valid == nullptr) return false;
  return state_.step % every == 0 || state_.step == settings_.schedule.total_steps;
}

double Trainer::Validate() {
  Phase(state_.step, "validate");
  optimizer_.WaitForWeights(ctx_);
  return Evaluate(ctx_, model_, mesh_, settings_, datasets_.valid,
                  FirstValidationBatch(settings_.eval, state_.step), settings_.eval.steps)
      .loss;
}

// One tensor group samples; the others go on to the next step and wait for it there.
void Trainer::WriteSamples() {
  Phase(state_.step, "samples");
  optimizer_.WaitForWeights(ctx_);
  if (mesh_.data().rank() != 0) return;
  samples_->Write(state_.step, ctx_, model_, mesh_, *recorder_);
}

void Trainer::RequireEqualReplicas() {
  optimizer_.WaitForWeights(ctx_);
  CheckReplicas(mesh_, model_, optimizer_, settings_.parallel.zero_stage, state_.step);
}

void Trainer::ReportSlowRank() {
  if (mesh_.world().size() == 1 || state_.step % settings_.logging.every_steps != 0) return;
  const std::string report = rank_times_.Report();
  if (!report.empty() && mesh_.world().rank() == 0) LogWarn("{}", report);
}

void Trainer::Save() {
  const int64_t every = settings_.safety.replica_check_steps;
  // A checkpoint from unequal replicas would carry the fault on.
  if (every > 0 && state_.step % every != 0) RequireEqualReplicas();
  Phase(state_.step, "save");
  optimizer_.WaitForWeights(ctx_);
  // A committed step is in metrics.jsonl.
  checkpoints_.Save(state_, [this] { recorder_->Sync(); });
}

bool Trainer::StopRequested() {
  bool stop = signals_.Requested() != 0;
  if (options_.max_wall_seconds > 0) {
    const double needed = 2 * recorder_->typical_step_seconds() + 2 * checkpoints_.save_seconds();
    stop = stop || wall_.Seconds() + needed > options_.max_wall_seconds;
  }
  *stop_.data<int32_t>() = stop;
  mesh_.world().AllReduce(ctx_, stop_, dist::ReduceOp::kMax, "stop").Wait();
  stopped_ = *stop_.data<int32_t>() != 0;
  return stopped_;
}

ExitCode Trainer::Finish() {
  Phase(state_.step, "finish");
  // Initial weights that nobody has trained are made again when the run starts again.
  const bool untouched = stopped_ && state_.step == first_step_;
  if (!untouched && checkpoints_.last_saved_step() != state_.step) Save();
  checkpoints_.Finish();
  recorder_->Sync();
  PrintFooter();
  mesh_.world().Barrier("end of the run");  // nobody leaves while others may still fail
  watchdog_.ExpectTheEnd();
  return stopped_ ? ExitCode::kStopped : ExitCode::kDone;
}

}  // namespace sepia::trainer
