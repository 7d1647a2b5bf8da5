#include "trainer/evaluation.h"

#include <limits>
#include <utility>

#include "base/batch.h"
#include "base/buffer.h"
#include "base/device_memory.h"
#include "data/batch_loader.h"
#include "dist/flight_recorder.h"
#include "kernels/elementwise.h"
#include "trainer/training_data.h"

namespace sepia::trainer {

EvaluationResult Evaluate(kernels::Context& ctx, model::GptNeox& model, dist::Mesh& mesh,
                          const TrainSettings& settings,
                          std::shared_ptr<const data::Dataset> dataset, int64_t first_batch,
                          int64_t num_batches) {
  data::BatchLoader loader(
      LoaderOptions(settings, mesh, std::move(dataset), first_batch * settings.batch.global));
  const OwnedTensor loss_sum(DType::kFloat64, {1}, ctx.device);
  kernels::Zero(ctx, loss_sum);
  int64_t num_targets = 0;
  const auto recorder = mesh.world().recorder();
  for (int64_t i = 0; i < num_batches * loader.micro_batches_per_step(); ++i) {
    const Batch batch = loader.Next();
    if (recorder != nullptr) recorder->Tick();
    model.Forward(ctx, batch);
    model.Loss(ctx, batch, loss_sum, GradMode::kAccumulate);
    num_targets += batch.num_targets();
  }
  // Loss sum and number of targets, so that one collective carries both.
  const OwnedTensor sums(DType::kFloat64, {2});
  sums.data<double>()[0] = ReadScalar<double>(loss_sum);
  sums.data<double>()[1] = static_cast<double>(num_targets);
  mesh.data().AllReduce(ctx, sums, dist::ReduceOp::kSum, "validation loss").Wait();
  const double targets = sums.data<double>()[1];
  return {.loss = targets > 0 ? sums.data<double>()[0] / targets
                              : std::numeric_limits<double>::quiet_NaN(),
          .targets = static_cast<int64_t>(targets)};
}

int64_t FirstValidationBatch(const EvalSettings& settings, int64_t step) {
  return (step - 1) / settings.every_steps * settings.steps;
}

int64_t NumValidationSamples(const TrainSettings& settings) {
  if (settings.eval.every_steps == 0) return 0;
  const int64_t validations = settings.schedule.total_steps / settings.eval.every_steps + 1;
  return validations * settings.eval.steps * settings.batch.global;
}

}  // namespace sepia::trainer
