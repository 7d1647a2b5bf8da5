// Planned memory against what a rank really takes: run by mpirun with two ranks.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/buffer.h"
#include "dist/communicator.h"
#include "dist/mesh.h"
#include "tests/model/model_under_test.h"
#include "trainer/config.h"
#include "trainer/memory_plan.h"
#include "trainer/optimizer.h"
#include "trainer/process.h"
#include "trainer/step_traffic.h"

namespace sepia::trainer {
namespace {

// MPI starts once a process; each mesh takes a group of its own.
dist::Communicator& World() {
  static const std::unique_ptr<dist::Communicator> world = dist::MakeWorldCommunicator();
  return *world;
}

TrainSettings Settings(const std::vector<std::string>& overrides) {
  std::vector<std::string> all = {"model.preset='pythia-14m'",
                                  "model.attention={kind: SEP window: 64}",
                                  "data.sequence_length=256",
                                  "batch.global=8",
                                  "batch.micro=2",
                                  "threads=1"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return LoadConfigText("", "memory test", all, {.for_training = false}).settings;
}

// Peak of the resident set over two steps, beyond what it was before anything was allocated.
int64_t MeasureGrowth(const TrainSettings& settings) {
  dist::Mesh mesh(World().Split(0, World().rank(), "world"), settings.parallel.tensor);
  const int64_t before = ResidentBytes();
  ResetPeakResident();
  model::GptNeox model(settings.model, ModelOptionsOf(settings, mesh.data().size()), mesh);
  kernels::Context ctx{.num_threads = 1, .scratch = &model.scratch()};
  AdamW optimizer(settings.optimizer, model, mesh, settings.parallel.zero_stage,
                  /*overlap=*/true);
  optimizer.InitializeWeights(ctx, 1234);
  const OwnedTensor loss(DType::kFloat64, {1});
  const OwnedTensor scale(DType::kFloat32, {1});
  *scale.data<float>() = 1e-4f;
  const Batch batch =
      testing::RandomBatch(settings.model, settings.batch.micro, settings.data.sequence_length, 1);
  for (int step = 0; step < 2; ++step) {
    model.Forward(ctx, batch, optimizer.weights_needed(ctx));
    const GradientReducer::Gradients gradients = optimizer.MicroBatch(ctx, 0, 1);
    model.Backward(ctx, batch,
                   {.grad_scale = scale,
                    .loss_sum = loss,
                    .loss_mode = GradMode::kOverwrite,
                    .grad_mode = gradients.mode,
                    .gradients_ready = gradients.ready});
    optimizer.MeasureGradients(ctx, 1);
    optimizer.Update(ctx, 1e-4);
  }
  return PeakResidentBytes() - before;
}

// The first step of a process also brings in code and MPI's buffers, once: some 13 MB, which `plan`
// counts as reserved. They are part of "before" here.
TEST(MpiMemory, IsWithinFivePercentOfThePlan) {
  MeasureGrowth(Settings({"parallel.tensor=2", "precision=BF16"}));
  for (const std::vector<std::string>& layout :
       std::vector<std::vector<std::string>>{{"parallel.tensor=2", "precision=BF16"},
                                             {"parallel.zero_stage=1", "precision=BF16"},
                                             {"parallel.zero_stage=2"},
                                             {"parallel.zero_stage=1", "batch.global=4"},
                                             {"parallel.sequence=true", "parallel.tensor=2"},
                                             {"parallel.zero_stage=0", "recompute=true"}}) {
    const TrainSettings settings = Settings(layout);
    const int64_t planned = PlanMemory(settings, World().size() / settings.parallel.tensor).total();
    const int64_t measured = MeasureGrowth(settings);
    const double ratio = static_cast<double>(measured) / static_cast<double>(planned);
    EXPECT_NEAR(ratio, 1, 0.05) << layout[0];
    std::printf("rank %d, %s: planned %.1f MB, measured %.1f MB (%+.2f %%)\n", World().rank(),
                layout[0].c_str(), 1e-6 * static_cast<double>(planned),
                1e-6 * static_cast<double>(measured), 100 * (ratio - 1));
  }
  World().Barrier("end");
}

}  // namespace
}  // namespace sepia::trainer
