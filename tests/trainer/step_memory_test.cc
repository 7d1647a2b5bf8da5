// What training takes is what the plan says, in the first step: later steps ask the system for
// nothing, and what the C++ heap gives them is bookkeeping.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include "dist/communicator.h"
#include "model/decoder.h"
#include "tests/model/model_under_test.h"
#include "trainer/config.h"
#include "trainer/memory_plan.h"
#include "trainer/optimizer.h"
#include "trainer/process.h"

namespace {

// Of `new` in all threads: bytes alive now; all bytes asked for, and the largest request, since the
// last reset.
std::atomic<size_t> live_bytes = 0;
std::atomic<size_t> requested_bytes = 0;
std::atomic<size_t> largest_request = 0;

void* Allocate(size_t size) {
  requested_bytes += size;
  size_t largest = largest_request;
  while (size > largest && !largest_request.compare_exchange_weak(largest, size)) {
  }
  void* memory = std::malloc(std::max<size_t>(size, 1));
  if (memory == nullptr) throw std::bad_alloc();
  live_bytes += malloc_usable_size(memory);
  return memory;
}

void Free(void* memory) {
  if (memory != nullptr) live_bytes -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) { return Allocate(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete(void* memory, size_t) noexcept { Free(memory); }

namespace sepia::trainer {
namespace {

using sepia::testing::ConfigFromText;
using sepia::testing::RandomBatch;

// Wide enough that any tensor of it is larger than kBookkeeping.
constexpr char kModel[] =
    "vocab_size: 2048 hidden_size: 128 num_layers: 2 num_heads: 4 max_positions: 256 "
    "attention { kind: SEP window: 16 full_layers: 0 separator_ids: [3, 7, 11] }";
constexpr int64_t kLength = 128;
// A sanitizer's allocator maps memory of its own and keeps what was freed.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// Closures, lists of pieces, of pending collectives.
constexpr size_t kBookkeeping = 16 << 10;

class Training {
 public:
  Training(const model::ModelConfig& config, const model::ModelOptions& options)
      : mesh_(dist::MakeSelfCommunicator(), /*tensor=*/1),
        model_(config, options, mesh_),
        ctx_{.num_threads = options.num_threads, .scratch = &model_.scratch()},
        optimizer_(
            {.lr = 0, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0},
            model_, mesh_),
        batch_(RandomBatch(config, options.batch_size, options.seq_length, 3)) {}

  void InitializeWeights() { optimizer_.InitializeWeights(ctx_, 1234); }

  void Step(int micro_batches) {
    double loss = 0;
    const float scale = 1.0F / static_cast<float>(batch_.num_targets() * micro_batches);
    GradMode mode = GradMode::kOverwrite;
    for (int i = 0; i < micro_batches; ++i) {
      model_.Forward(ctx_, batch_);
      model_.Backward(ctx_, batch_,
                      {.grad_scale = ConstTensorView(&scale, DType::kFloat32, {1}),
                       .loss_sum = TensorView(&loss, DType::kFloat64, {1}),
                       .loss_mode = mode,
                       .grad_mode = mode});
      mode = GradMode::kAccumulate;
    }
    optimizer_.MeasureGradients(ctx_, 1);
    ASSERT_FALSE(optimizer_.non_finite());
    optimizer_.Update(ctx_, 1e-3);
  }

 private:
  dist::Mesh mesh_;
  model::GptNeox model_;
  kernels::Context ctx_;
  AdamW optimizer_;
  Batch batch_;
};

// The heap of C as well. Chunks that wait for reuse by one thread count as used: this moves a
// little.
size_t HeapInUse() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// A whole step alone in each of the threads that share the work of one. Which of them runs what is
// chance; after this the workspaces of all have the size that the largest product needs.
void StepInEachThread(Training& training, int num_threads, int micro_batches) {
  omp_set_max_active_levels(1);  // a loop in here has one thread
#pragma omp parallel num_threads(num_threads)
#pragma omp critical
  training.Step(micro_batches);
}

void ExpectNoAllocations(DType dtype, bool recompute, int micro_batches) {
  SCOPED_TRACE(fmt::format("{}, recompute {}, {} micro-batches", DTypeName(dtype), recompute,
                           micro_batches));
  constexpr int kThreads = 2;
  Training training(ConfigFromText(kModel), {.compute_dtype = dtype,
                                             .batch_size = 2,
                                             .seq_length = kLength,
                                             .recompute = recompute,
                                             .keep_gradients = micro_batches > 1,
                                             .num_threads = kThreads});
  training.InitializeWeights();
  StepInEachThread(training, kThreads, micro_batches);
  for (int i = 0; i < 4; ++i) training.Step(micro_batches);
  const int64_t peak = PeakMappedBytes();
  ASSERT_GT(peak, 0);
  const size_t heap = HeapInUse();
  const size_t live = live_bytes;
  largest_request = 0;
  for (int i = 0; i < 3; ++i) training.Step(micro_batches);
  EXPECT_EQ(live_bytes, live);
  EXPECT_LT(HeapInUse(), heap + kBookkeeping);
  if (!kSanitized) {
    EXPECT_EQ(PeakMappedBytes(), peak);
  }
  EXPECT_GT(largest_request, 0u);  // the hook is in place
  EXPECT_LE(largest_request, kBookkeeping);
}

TEST(StepMemoryTest, NothingIsAllocatedAfterTheFirstSteps) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    ExpectNoAllocations(dtype, /*recompute=*/false, /*micro_batches=*/1);
    ExpectNoAllocations(dtype, /*recompute=*/true, /*micro_batches=*/1);
    ExpectNoAllocations(dtype, /*recompute=*/false, /*micro_batches=*/2);
  }
}

// Bookkeeping of a generated token does not grow with the tokens before it: what layers see of them
// is in tables that were allocated with the decoder.
TEST(StepMemoryTest, AGeneratedTokenAsksForTheSameAtAnyLength) {
  const model::ModelConfig config = ConfigFromText(kModel);
  dist::Mesh mesh(dist::MakeSelfCommunicator(), /*tensor=*/1);
  model::GptNeox model(config, {.seq_length = 1, .gradients = false}, mesh);
  model::Decoder decoder({}, model, mesh, config.max_positions);
  const std::vector<int32_t> prompt(20, 3);
  decoder.Append(prompt);
  decoder.Append(std::span(prompt).first(1));  // prepares the products of one row, once
  std::vector<size_t> requested;
  while (decoder.length() < config.max_positions) {
    requested_bytes = 0;
    decoder.Append(std::span(prompt).first(1));
    requested.push_back(requested_bytes);
  }
  EXPECT_GT(requested.front(), 0u);  // the hook is in place
  EXPECT_EQ(requested.back(), requested.front());
  EXPECT_EQ(*std::max_element(requested.begin(), requested.end()), requested.front());
}

// The peak of the resident set over what it was before the model existed, against the plan of the
// same settings. Weights are zero: the first update writes them and the states, whatever they are.
void ExpectGrowthAsPlanned(const std::string& preset, const char* precision, int length,
                           const std::vector<std::string>& more = {}) {
  SCOPED_TRACE(fmt::format("{} {} {}", preset, precision, fmt::join(more, " ")));
  std::vector<std::string> set = {fmt::format("model.preset=\"{}\"", preset),
                                  fmt::format("precision={}", precision),
                                  fmt::format("data.sequence_length={}", length),
                                  "batch.micro=4",
                                  "batch.global=4",
                                  "threads=2"};
  set.insert(set.end(), more.begin(), more.end());
  const TrainSettings settings =
      LoadConfigText("", "test", set, {.ranks = 1, .for_training = false}).settings;
  const int64_t before = ResidentBytes();
  ResetPeakResident();
  Training training(settings.model, ModelOptionsOf(settings, /*data_ranks=*/1));
  training.Step(/*micro_batches=*/1);
  const auto growth = static_cast<double>(PeakResidentBytes() - before);
  const auto planned = static_cast<double>(PlanMemory(settings).total());
  EXPECT_GT(planned, 1e8);
  EXPECT_NEAR(growth / planned, 1, 0.05);
}

TEST(MemoryPlanTest, IsWhatAStepTakes) {
  if (kSanitized) GTEST_SKIP() << "sanitizers have memory of their own";
  ExpectGrowthAsPlanned("pythia-70m", "BF16", 16);
  ExpectGrowthAsPlanned("pythia-160m", "FP32", 16);
  // Activations and scratch are a part that counts.
  ExpectGrowthAsPlanned("pythia-14m", "FP32", 512);
  ExpectGrowthAsPlanned("pythia-14m", "BF16", 512, {"recompute=true"});
}

}  // namespace
}  // namespace sepia::trainer
