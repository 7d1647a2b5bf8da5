#include "tests/trainer/tiny_training.h"

#include <cmath>
#include <mutex>
#include <utility>

#include <gtest/gtest.h>

#include "base/device_memory.h"
#include "dist/device_world.h"
#include "dist/thread_ranks.h"
#include "tests/model/model_under_test.h"

namespace sepia::testing {
namespace {

// All elements of the run, put together from the ranks' shares of a checkpoint.
void Collect(const std::vector<trainer::StateTensor>& tensors,
             std::map<std::string, std::vector<float>>* whole) {
  for (const trainer::StateTensor& t : tensors) {
    std::vector<float>& values = (*whole)[t.name];
    values.resize(static_cast<size_t>(t.global_shape.num_elements()), NAN);
    const int last = t.global_shape.rank() - 1;
    const int64_t stride = t.global_shape[last];
    const int64_t width = t.view.dim(last);
    const int64_t first = last == 0 ? t.offset[0] : t.offset[0] * stride + t.offset[1];
    const OwnedTensor part(DType::kFloat32, t.view.shape());
    t.Read(0, part);
    for (int64_t e = 0; e < t.view.num_elements(); ++e) {
      float& value = values[static_cast<size_t>(first + e / width * stride + e % width)];
      EXPECT_TRUE(std::isnan(value)) << t.name << ": saved twice";
      value = part.data<float>()[e];
    }
  }
}

}  // namespace

namespace {

trainer::GraphRange GraphsOf(const TrainingLayout& layout) {
  if (!layout.graphs) return {};
  return trainer::MicroBatchesAsGraphs(
      {.tensor = layout.tensor, .zero_stage = layout.zero, .overlap = layout.overlap}, layout.data,
      layout.accumulation);
}

}  // namespace

model::ModelOptions TinyOptions(const TrainingLayout& layout, DType dtype) {
  return {.compute_dtype = dtype,
          .batch_size = kTinyMicroBatches * kTinyRows,
          .seq_length = kTinyLength,
          .shard_gradients = layout.zero == 2,
          .recompute = layout.recompute,
          .sequence = layout.sequence,
          .sequence_chunk_rows = kTinyChunkRows,
          .keep_gradients = layout.keep_gradients || layout.accumulation > 1,
          .device = layout.device,
          .full_attention = layout.full_attention,
          .graphs = layout.graphs};
}

TinyTraining::TinyTraining(const TrainingLayout& layout, DType dtype,
                           std::unique_ptr<dist::Communicator> world)
    : layout_(layout),
      config_(ConfigFromText(kTinyModel)),
      mesh_(dist::OpenDeviceWorld(std::move(world), layout.device), layout.tensor),
      model_(config_, TinyOptions(layout, dtype), mesh_),
      ctx_{.device = layout.device,
           .num_threads = 1,
           .scratch = &model_.scratch(),
           .full_attention = layout.full_attention},
      optimizer_(
          {.lr = 0, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0},
          model_, mesh_, layout.zero, layout.overlap),
      micro_steps_(model_, optimizer_, GraphsOf(layout)),
      loss_sum_(DType::kFloat64, {1}, layout.device),
      grad_scale_(DType::kFloat32, {1}, layout.device) {
  optimizer_.InitializeWeights(ctx_, 1234);
}

void TinyTraining::Step(int step, TrainingCurve* curve) {
  WriteScalar(grad_scale_, 1.0f / kTinyTokens);
  const int joined = kTinyMicroBatches / layout_.accumulation;
  std::vector<Batch> batches;
  for (int i = 0; i < layout_.accumulation; ++i) {
    batches.push_back(RowsOfRank(step % 8, i * joined, joined));
  }
  micro_steps_.Run(ctx_, batches, {.grad_scale = grad_scale_, .loss_sum = loss_sum_});
  auto sum = ReadScalar<double>(loss_sum_);
  mesh_.data()
      .AllReduce(ctx_, TensorView(&sum, DType::kFloat64, {1}), dist::ReduceOp::kSum, "loss")
      .Wait();
  optimizer_.MeasureGradients(ctx_, 1);
  optimizer_.Update(ctx_, kTinyLearningRate);
  curve->losses.push_back(sum / kTinyTokens);
  curve->grad_norms.push_back(optimizer_.grad_norm());
}

Batch TinyTraining::RowsOfRank(int step, int first, int count) {
  const int64_t rank = mesh_.data().rank();
  std::vector<int32_t> tokens, targets;
  for (int i = first; i < first + count; ++i) {
    const Batch batch =
        RandomBatch(config_, kTinyRows, kTinyLength, static_cast<uint64_t>(100 * step + i));
    const Batch rows = CutRows(config_, batch, kTinyRows * rank / layout_.data,
                               kTinyRows * (rank + 1) / layout_.data);
    tokens.insert(tokens.end(), rows.tokens.begin(), rows.tokens.end());
    targets.insert(targets.end(), rows.targets.begin(), rows.targets.end());
  }
  const auto num_rows = static_cast<int64_t>(tokens.size()) / kTinyLength;
  return MakeBatch(config_, std::move(tokens), std::move(targets), num_rows, kTinyLength);
}

TrainingCurve TrainTiny(const TrainingLayout& layout, int steps, DType dtype,
                        kernels::GraphCounts* counts) {
  const int ranks = layout.tensor * layout.data;
  std::vector<TrainingCurve> curves(static_cast<size_t>(ranks));
  TrainingCurve whole;
  std::mutex mutex;  // of `whole`
  dist::RunThreadRanks(ranks, [&](std::unique_ptr<dist::Communicator> world) {
    TrainingCurve& curve = curves[static_cast<size_t>(world->rank())];
    TinyTraining training(layout, dtype, std::move(world));
    {
      const std::lock_guard lock(mutex);
      Collect(training.optimizer().Masters(trainer::AdamW::Share::kSaved), &whole.first_weights);
    }
    for (int step = 0; step < steps; ++step) training.Step(step, &curve);
    const std::lock_guard lock(mutex);
    if (counts != nullptr && &curve == curves.data()) {
      *counts = training.micro_steps().graphs()->counts();
    }
    Collect(training.optimizer().Masters(trainer::AdamW::Share::kSaved), &whole.last_weights);
    Collect(training.optimizer().SecondMoments(trainer::AdamW::Share::kSaved), &whole.last_moments);
  });
  for (const TrainingCurve& curve : curves) {
    EXPECT_EQ(curve.losses, curves[0].losses);
    EXPECT_EQ(curve.grad_norms, curves[0].grad_norms);
  }
  whole.losses = curves[0].losses;
  whole.grad_norms = curves[0].grad_norms;
  return whole;
}

}  // namespace sepia::testing
