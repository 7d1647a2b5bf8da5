#include "tools/sepia/step_workload.h"

#include <cmath>

#include <fmt/core.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/device_memory.h"
#include "base/error.h"
#include "dist/communicator.h"
#include "kernels/device.h"
#include "model/make_batch.h"
#include "trainer/memory_plan.h"

namespace sepia::tools {
namespace {

constexpr double kLr = 1e-4;

Batch FirstRows(const model::AttentionPlan& plan, const trainer::TrainSettings& settings,
                const std::vector<int32_t>& stream) {
  const int64_t seq = settings.data.sequence_length;
  std::vector<int32_t> tokens, targets;
  for (int64_t row = 0; row < settings.batch.micro; ++row) {
    const auto begin = stream.begin() + row * (seq + 1);
    tokens.insert(tokens.end(), begin, begin + seq);
    targets.insert(targets.end(), begin + 1, begin + seq + 1);
  }
  return model::MakeBatch(plan, std::move(tokens), std::move(targets), settings.batch.micro, seq);
}

}  // namespace

StepWorkload::StepWorkload(const trainer::TrainSettings& settings,
                           const std::vector<int32_t>& stream)
    : mesh_(dist::MakeSelfCommunicator(), /*tensor=*/1),
      model_(settings.model, trainer::ModelOptionsOf(settings, /*data_ranks=*/1), mesh_),
      ctx_{.device = settings.device,
           .num_threads = trainer::NumThreads(settings),
           .scratch = &model_.scratch(),
           .allow_fallback = settings.allow_fallback,
           .full_attention = settings.full_attention},
      optimizer_(
          {.lr = kLr, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0},
          model_, mesh_),
      batch_(FirstRows(model_.attention_plan(), settings, stream)),
      loss_sum_(DType::kFloat64, {1}, settings.device),
      grad_scale_(DType::kFloat32, {1}, settings.device) {
  optimizer_.InitializeWeights(ctx_, /*seed=*/1234);
}

StepSeconds StepWorkload::Run() {
  StepSeconds seconds;
  Timer timer;
  model_.Forward(ctx_, batch_);
  kernels::Synchronize(ctx_.device);
  seconds.forward = timer.Lap();
  last_loss_ = Backward();
  seconds.backward = timer.Lap();
  optimizer_.MeasureGradients(ctx_, /*loss_scale=*/1);
  optimizer_.Update(ctx_, kLr);
  kernels::Synchronize(ctx_.device);
  seconds.optimizer = timer.Lap();
  if (!has_run_) first_loss_ = last_loss_;
  has_run_ = true;
  return seconds;
}

double StepWorkload::Backward() {
  const auto num_targets = static_cast<double>(batch_.num_targets());
  WriteScalar(grad_scale_, static_cast<float>(1 / num_targets));
  model_.Backward(ctx_, batch_,
                  {.grad_scale = grad_scale_,
                   .loss_sum = loss_sum_,
                   .loss_mode = GradMode::kOverwrite,
                   .grad_mode = GradMode::kOverwrite});
  return ReadScalar<double>(loss_sum_) / num_targets;
}

void StepWorkload::VerifyLosses() const {
  const double expected = std::log(static_cast<double>(model_.config().vocab_size));
  if (std::isfinite(optimizer_.grad_norm()) && std::abs(first_loss_ - expected) < 0.1 * expected &&
      last_loss_ < first_loss_) {
    return;
  }
  throw Error(ExitCode::kNumerical,
              fmt::format("bench step: loss {} then {}, gradient norm {}; expected a loss near {} "
                          "that falls",
                          first_loss_, last_loss_, optimizer_.grad_norm(), expected));
}

trainer::AttentionWork StepWorkload::attention_work() const {
  return trainer::CountAttentionWork(model_.attention_plan(), batch_.indexes,
                                     model_.options().batch_size, model_.options().seq_length);
}

double StepWorkload::flops() const {
  return trainer::TrainingFlops(model_.config(), num_tokens(), attention_work());
}

}  // namespace sepia::tools
