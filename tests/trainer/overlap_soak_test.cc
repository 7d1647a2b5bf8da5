// How much communication overlap hides. Measures time, so it is left out of ordinary runs:
// scripts/soak overlap.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <gtest/gtest.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "dist/thread_ranks.h"
#include "tests/model/model_under_test.h"
#include "trainer/optimizer.h"

namespace sepia::trainer {
namespace {

using sepia::testing::ConfigFromText;
using sepia::testing::RandomBatch;

constexpr char kModel[] =
    "vocab_size: 256 hidden_size: 256 num_layers: 8 num_heads: 4 max_positions: 256 "
    "attention { kind: SEP window: 32 full_layers: 0 separator_ids: [3, 7, 11] } ";
constexpr int kSteps = 7;

struct Measured {
  double step_seconds = 0;  // median
  double hidden = 0;        // share of the collectives' time
  int64_t bytes_sent = 0;   // a step
};

// Steps of rank 0 of two data ranks with a thread each.
Measured Measure(int zero, bool overlap, double bytes_per_second) {
  Measured measured;
  const auto rank = [&](std::unique_ptr<dist::Communicator> world) {
    const model::ModelConfig config = ConfigFromText(kModel);
    dist::Mesh mesh(std::move(world), 1);
    model::GptNeox model(
        config, {.batch_size = 2, .seq_length = config.max_positions, .shard_gradients = zero == 2},
        mesh);
    kernels::Context ctx{.num_threads = 1, .scratch = &model.scratch()};
    AdamW optimizer({.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1}, model, mesh, zero,
                    overlap);
    optimizer.InitializeWeights(ctx, 1);
    const Batch batch = RandomBatch(config, 2, config.max_positions, 1);
    const OwnedTensor loss(DType::kFloat64, {1});
    const OwnedTensor scale(DType::kFloat32, {1});
    *scale.data<float>() = 1e-3f;
    std::vector<double> seconds;
    const dist::Traffic before = mesh.data().traffic();
    for (int step = 0; step < kSteps; ++step) {
      const Timer timer;
      model.Forward(ctx, batch, optimizer.weights_needed(ctx));
      const auto gradients = optimizer.MicroBatch(ctx, 0, 1);
      model.Backward(ctx, batch,
                     {.grad_scale = scale,
                      .loss_sum = loss,
                      .loss_mode = GradMode::kOverwrite,
                      .grad_mode = gradients.mode,
                      .gradients_ready = gradients.ready});
      optimizer.MeasureGradients(ctx, 1);
      optimizer.Update(ctx, 1e-4);
      seconds.push_back(timer.Seconds());
    }
    optimizer.WaitForWeights(ctx);
    if (mesh.data().rank() != 0) return;
    const dist::Traffic after = mesh.data().traffic();
    std::nth_element(seconds.begin(), seconds.begin() + kSteps / 2, seconds.end());
    measured = {.step_seconds = seconds[kSteps / 2],
                .hidden = 1 - (after.waited_seconds - before.waited_seconds) /
                                  (after.busy_seconds - before.busy_seconds),
                .bytes_sent = (after.bytes_sent - before.bytes_sent) / kSteps};
  };
  dist::RunThreadRanks(2, rank, bytes_per_second);
  return measured;
}

TEST(Overlap, DISABLED_HidesHalfOfTheCommunicationOfASlowLink) {
  for (const int zero : {0, 1, 2}) {
    // A link on which the messages of a step take about as long as its computation.
    const Measured fast = Measure(zero, /*overlap=*/false, /*bytes_per_second=*/0);
    const double speed = static_cast<double>(fast.bytes_sent) / fast.step_seconds;
    const Measured without = Measure(zero, /*overlap=*/false, speed);
    const Measured with = Measure(zero, /*overlap=*/true, speed);
    const double gain = without.step_seconds / with.step_seconds;
    std::printf(
        "zero %d: computation %.0f ms, link %.0f MB/s: step %.0f ms without overlap, %.0f ms with "
        "(%.2f x), %.0f %% hidden\n",
        zero, 1e3 * fast.step_seconds, 1e-6 * speed, 1e3 * without.step_seconds,
        1e3 * with.step_seconds, gain, 100 * with.hidden);
    EXPECT_GE(gain, 1.2);
    EXPECT_GE(with.hidden, 0.5);
  }
}

}  // namespace
}  // namespace sepia::trainer
