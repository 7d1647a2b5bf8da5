// Training under every layout of tensor and data ranks, ZeRO stage, sequence parallelism and
// accumulation: the curve of one rank, the same bits in every run of one layout, and the bytes on
// the wire that docs/parallelism.md promises.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/buffer.h"
#include "dist/thread_ranks.h"
#include "tests/model/model_under_test.h"
#include "tests/trainer/tiny_training.h"
#include "trainer/memory_plan.h"
#include "trainer/optimizer.h"
#include "trainer/step_traffic.h"

namespace sepia::trainer {
namespace {

using sepia::testing::ConfigFromText;
using sepia::testing::kTinyChunkRows;
using sepia::testing::kTinyLength;
using sepia::testing::kTinyModel;
using sepia::testing::RandomBatch;
using sepia::testing::TinyOptions;

using Layout = sepia::testing::TrainingLayout;
using Curve = sepia::testing::TrainingCurve;

std::string Name(const Layout& l) {
  return fmt::format("tensor {} x data {}, zero {}, {}accumulation {}", l.tensor, l.data, l.zero,
                     l.sequence ? "sequence, " : "", l.accumulation);
}

Curve Train(const Layout& layout, int steps, DType dtype = DType::kFloat32) {
  return sepia::testing::TrainTiny(layout, steps, dtype);
}

// All of them with SEPIA_FULL_CURVES; otherwise every pair of values of two properties.
std::vector<Layout> Layouts() {
  const bool all = std::getenv("SEPIA_FULL_CURVES") != nullptr;
  std::vector<Layout> layouts;
  for (const int tensor : {1, 2, 4}) {
    for (const int data : {1, 2, 4}) {
      for (const int zero : {0, 1, 2}) {
        for (const bool sequence : {false, true}) {
          if (tensor * data > 8 || (sequence && tensor == 1)) continue;
          const int number = tensor + data + zero;
          if (!all && tensor > 1 && (number % 2 == 0) != sequence) continue;
          layouts.push_back({tensor, data, zero, sequence, /*accumulation=*/1 << number % 3});
        }
      }
    }
  }
  // A number of ranks that divides nothing.
  layouts.push_back({1, 3, 1, /*sequence=*/false, /*accumulation=*/4});
  layouts.push_back({1, 3, 2, /*sequence=*/false, /*accumulation=*/4});
  // Ranks without rows.
  layouts.push_back({1, 8, 2, /*sequence=*/false, /*accumulation=*/2});
  return layouts;
}

TEST(LayoutTraining, FiftyStepsFollowTheCurveOfOneRank) {
  constexpr int kSteps = 50;
  const Curve one = Train({}, kSteps);
  ASSERT_LT(one.losses.back(), 0.8 * one.losses.front());  // it learns something
  double worst_loss = 0, worst_norm = 0;
  for (const Layout& layout : Layouts()) {
    SCOPED_TRACE(Name(layout));
    const Curve curve = Train(layout, kSteps);
    EXPECT_EQ(curve.first_weights, one.first_weights);  // bit for bit
    // The same weights: only the order of sums differs (layout_test.cc of model/).
    EXPECT_NEAR(curve.grad_norms[0] / one.grad_norms[0], 1, 1e-5);
    for (size_t i = 0; i < one.losses.size(); ++i) {
      worst_loss = std::max(worst_loss, std::abs(curve.losses[i] - one.losses[i]));
      worst_norm = std::max(worst_norm, std::abs(curve.grad_norms[i] / one.grad_norms[i] - 1));
    }
  }
  EXPECT_LE(worst_loss, 1e-3);  // the project's promise for 50 steps
  std::printf("largest difference over 50 steps: loss %.2e, gradient norm %.2e (relative)\n",
              worst_loss, worst_norm);
}

TEST(LayoutTraining, TwoRunsOfOneLayoutHaveTheSameBits) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int zero : {0, 1, 2}) {
      const Layout layout{
          .tensor = 2, .data = 2, .zero = zero, .sequence = zero != 1, .accumulation = 2};
      EXPECT_TRUE(Train(layout, 5, dtype) == Train(layout, 5, dtype)) << DTypeName(dtype);
    }
  }
}

// Sharding the optimizer changes who computes an update, and nothing about it but the order in
// which the norm adds squares up: in double, so that clipping rarely sees it.
TEST(LayoutTraining, ZeroDoesNotChangeTheUpdate) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Curve whole = Train({.tensor = 1, .data = 4, .zero = 0}, 5, dtype);
    const Curve sharded = Train({.tensor = 1, .data = 4, .zero = 1}, 5, dtype);
    for (size_t i = 0; i < whole.losses.size(); ++i) {
      EXPECT_NEAR(sharded.grad_norms[i] / whole.grad_norms[i], 1, 1e-6) << DTypeName(dtype);
      EXPECT_NEAR(sharded.losses[i], whole.losses[i], 1e-6) << DTypeName(dtype);
    }
  }
}

// What is behind the backward pass and what is not is a matter of time, not of numbers.
TEST(LayoutTraining, OverlapDoesNotChangeABit) {
  for (const int zero : {0, 1, 2}) {
    for (const int accumulation : {1, 2}) {  // 1: reduced where activations were
      Layout layout{.tensor = 2, .data = 2, .zero = zero, .sequence = true};
      layout.accumulation = accumulation;
      const Curve with = Train(layout, 5);
      layout.overlap = false;
      EXPECT_TRUE(Train(layout, 5) == with) << Name(layout);
    }
  }
}

// Reductions begin while backward has gradients to compute still: at each announcement one more
// bucket is on its way.
TEST(LayoutTraining, GradientsAreReducedWhileBackwardGoesOn) {
  for (const int zero : {0, 1, 2}) {
    dist::RunThreadRanks(2, [&](std::unique_ptr<dist::Communicator> world) {
      const Layout layout{.tensor = 1, .data = 2, .zero = zero};
      const model::ModelConfig config = ConfigFromText(kTinyModel);
      dist::Mesh mesh(std::move(world), layout.tensor);
      model::GptNeox model(config, TinyOptions(layout, DType::kFloat32), mesh);
      kernels::Context ctx{.num_threads = 1, .scratch = &model.scratch()};
      AdamW optimizer({.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1}, model, mesh, zero,
                      /*overlap=*/true);
      optimizer.InitializeWeights(ctx, 1);
      const OwnedTensor loss(DType::kFloat64, {1});
      const OwnedTensor scale(DType::kFloat32, {1});
      *scale.data<float>() = 1;
      std::vector<int64_t> started;
      const int64_t before = mesh.data().traffic().operations;
      const auto gradients = optimizer.MicroBatch(ctx, 0, 1);
      const Batch batch = RandomBatch(config, 1, kTinyLength, 1);
      model.Forward(ctx, batch);
      model.Backward(ctx, batch,
                     {.grad_scale = scale,
                      .loss_sum = loss,
                      .loss_mode = GradMode::kOverwrite,
                      .grad_mode = gradients.mode,
                      .gradients_ready = [&](int begin, int end) {
                        gradients.ready(begin, end);
                        started.push_back(mesh.data().traffic().operations - before);
                      }});
      EXPECT_EQ(started, (std::vector<int64_t>{1, 2, 3, 4})) << "zero " << zero;
      optimizer.MeasureGradients(ctx, 1);
    });
  }
}

TEST(LayoutTraining, OneRanksInfinityStopsTheUpdateOnAll) {
  for (const int zero : {0, 1, 2}) {
    dist::RunThreadRanks(4, [&](std::unique_ptr<dist::Communicator> world) {
      const bool culprit = world->rank() == 2;
      dist::Mesh mesh(std::move(world), 2);
      model::GptNeox model(ConfigFromText(kTinyModel),
                           TinyOptions({.tensor = 2, .data = 2, .zero = zero}, DType::kFloat32),
                           mesh);
      kernels::Context ctx{.num_threads = 1, .scratch = &model.scratch()};
      AdamW optimizer({.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1}, model, mesh, zero,
                      /*overlap=*/true);
      const auto gradients = optimizer.MicroBatch(ctx, 0, 1);
      const auto& buckets = model.layout().buckets;
      for (size_t b = buckets.size(); b-- > 0;) {
        const TensorView bucket = model.bucket_grads(b);
        std::fill_n(bucket.data<float>(), bucket.num_elements(), 0.0f);
        if (culprit && b == 1) model.grad(3).data<float>()[1] = INFINITY;
        gradients.ready(buckets[b].first_param, buckets[b].end_param);
      }
      optimizer.MeasureGradients(ctx, 1);
      EXPECT_TRUE(optimizer.non_finite());
    });
  }
}

// What a rank sends in a step, counted, is what docs/parallelism.md says.
void ExpectDocumentedBytes(const TrainSettings& settings, int data_ranks) {
  const int tensor = settings.parallel.tensor;
  dist::RunThreadRanks(tensor * data_ranks, [&](std::unique_ptr<dist::Communicator> world) {
    dist::Mesh mesh(std::move(world), tensor);
    model::ModelOptions options = ModelOptionsOf(settings, data_ranks);
    options.sequence_chunk_rows = kTinyChunkRows;
    model::GptNeox model(settings.model, options, mesh);
    kernels::Context ctx{.num_threads = 1, .scratch = &model.scratch()};
    AdamW optimizer(settings.optimizer, model, mesh, settings.parallel.zero_stage,
                    settings.parallel.overlap);
    optimizer.InitializeWeights(ctx, 1);
    const auto sent = [&] {
      return std::pair(mesh.data().traffic().bytes_sent, mesh.tensor().traffic().bytes_sent);
    };
    const auto before = sent();
    const OwnedTensor number(DType::kFloat64, {1});
    const OwnedTensor scale(DType::kFloat32, {1});
    *scale.data<float>() = 1;
    const int64_t count = settings.batch.global / (settings.batch.micro * data_ranks);
    mesh.data().AllReduce(ctx, number, dist::ReduceOp::kSum, "targets").Wait();
    for (int64_t i = 0; i < count; ++i) {
      const Batch batch = RandomBatch(settings.model, settings.batch.micro, kTinyLength, 3);
      model.Forward(ctx, batch, optimizer.weights_needed(ctx));
      const auto gradients = optimizer.MicroBatch(ctx, i, count);
      model.Backward(ctx, batch,
                     {.grad_scale = scale,
                      .loss_sum = number,
                      .loss_mode = GradMode::kOverwrite,
                      .grad_mode = gradients.mode,
                      .gradients_ready = gradients.ready});
    }
    mesh.data().AllReduce(ctx, number, dist::ReduceOp::kSum, "loss").Wait();
    optimizer.MeasureGradients(ctx, 1);
    optimizer.Update(ctx, 1e-3);
    optimizer.WaitForWeights(ctx);
    const auto after = sent();
    const std::vector<StepCollective> expected =
        CollectivesOfStep(settings, data_ranks, mesh.data().rank());
    EXPECT_EQ(after.first - before.first, BytesSentInStep(expected, MeshAxis::kData, data_ranks));
    EXPECT_EQ(after.second - before.second, BytesSentInStep(expected, MeshAxis::kTensor, tensor));
  });
}

TEST(LayoutTraining, SendsTheDocumentedBytes) {
  for (const char* variant : {"", "parallel_residual: false", "tie_embeddings: true"}) {
    for (const Layout& layout : Layouts()) {
      SCOPED_TRACE(Name(layout) + " " + variant);
      TrainSettings settings;
      settings.model = ConfigFromText(std::string(kTinyModel) + variant);
      settings.data.sequence_length = kTinyLength;
      settings.batch = {.global = 2 * layout.data * layout.accumulation, .micro = 2};
      settings.optimizer = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
      settings.precision = layout.data == 2 ? Precision::kBf16 : Precision::kFp32;
      settings.parallel = {
          .tensor = layout.tensor, .sequence = layout.sequence, .zero_stage = layout.zero};
      settings.recompute = layout.accumulation == 2;
      settings.threads = 1;
      ExpectDocumentedBytes(settings, layout.data);
    }
  }
}

}  // namespace
}  // namespace sepia::trainer
