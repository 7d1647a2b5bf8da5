// Training on the cuda backend follows the cpu backend's curve.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include <gtest/gtest.h>

#include "kernels/cuda/emulation/streams.h"
#include "kernels/cuda/graph.h"
#include "kernels/device.h"
#include "tests/trainer/tiny_training.h"

namespace sepia::testing {
namespace {

constexpr double kNumLayers = 2;

// Relative error of one run's gradients (by L2): about 24 roundings a layer, evenly spread, and 2
// for what backward amplifies; in FP32 sums of hundreds of products round as well. See
// tests/model/parity_test.cc. Two runs differ by both of theirs.
double GradientError(DType dtype) {
  const double unit_roundoff = dtype == DType::kBFloat16 ? 0x1p-8 : 8 * 0x1p-24;
  return std::sqrt(2.0) * 2 * unit_roundoff * std::sqrt(24 * kNumLayers / 3);
}

// Errors of share e in the gradients change Adam's moves, of at most about lr an element, by the
// same share and in no direction of their own: a step changes the loss by sum(g_i lr e_i), of
// standard deviation lr e |g|. Steps add up in quadrature; four deviations, beside the loss's own
// rounding.
void ExpectCurvesAgree(const TrainingCurve& actual, const TrainingCurve& expected, DType dtype) {
  EXPECT_TRUE(actual.first_weights == expected.first_weights);  // bit for bit
  const double error = GradientError(dtype);
  const double of_loss = error * expected.losses[0] / std::sqrt(static_cast<double>(kTinyTokens));
  double squares = 0, worst = 0, largest = 0;
  for (size_t step = 0; step < expected.losses.size(); ++step) {
    const double bound = of_loss + 4 * kTinyLearningRate * error * std::sqrt(squares);
    const double difference = std::abs(actual.losses[step] - expected.losses[step]);
    EXPECT_LE(difference, bound) << "step " << step;
    worst = std::max(worst, difference / bound);
    largest = std::max(largest, difference);
    squares += expected.grad_norms[step] * expected.grad_norms[step];
  }
  EXPECT_NEAR(actual.grad_norms[0] / expected.grad_norms[0], 1, error);
  std::printf("%s: loss %.4f to %.4f in %d steps; largest difference %.1e, %.2f of the bound\n",
              std::string(DTypeName(dtype)).c_str(), expected.losses.front(),
              expected.losses.back(), static_cast<int>(expected.losses.size()), largest, worst);
}

void ExpectTheCurveOfTheCpu(DType dtype, int steps) {
  const TrainingCurve cpu = TrainTiny({}, steps, dtype);
  ASSERT_LT(cpu.losses.back(), cpu.losses.front() - 0.1);  // it learns something
  ExpectCurvesAgree(TrainTiny({.device = Device::kCuda}, steps, dtype), cpu, dtype);
}

TEST(CudaTraining, TwentyStepsFollowTheCpuInBf16) { ExpectTheCurveOfTheCpu(DType::kBFloat16, 20); }
// Fewer: the fallback of FP32 attention is slow to emulate.
TEST(CudaTraining, FiveStepsFollowTheCpuInFp32) { ExpectTheCurveOfTheCpu(DType::kFloat32, 5); }

TEST(CudaTraining, TwoRunsHaveTheSameBits) {
  const TrainingLayout layout = {.accumulation = 2, .device = Device::kCuda};
  EXPECT_TRUE(TrainTiny(layout, 3, DType::kBFloat16) == TrainTiny(layout, 3, DType::kBFloat16));
}

// Also where each step writes its gradients over activations that it is done with.
TEST(CudaTraining, GradientsOverActivationsChangeNoBit) {
  const auto train = [](bool keep_gradients) {
    return TrainTiny({.device = Device::kCuda, .keep_gradients = keep_gradients}, 2,
                     DType::kBFloat16);
  };
  EXPECT_TRUE(train(false) == train(true));
}

TEST(CudaTraining, FullAttentionByCudnnFollowsTheCpu) {
  const TrainingLayout cudnn = {.device = Device::kCuda,
                                .full_attention = kernels::FullAttention::kCudnn};
  constexpr int kSteps = 5;
  const TrainingCurve curve = TrainTiny(cudnn, kSteps, DType::kBFloat16);
  ExpectCurvesAgree(curve, TrainTiny({}, kSteps, DType::kBFloat16), DType::kBFloat16);
  // Another kernel did run.
  EXPECT_NE(curve.last_weights,
            TrainTiny({.device = Device::kCuda}, kSteps, DType::kBFloat16).last_weights);
}

std::string Name(const TrainingLayout& l) {
  return fmt::format("tensor {} x data {}, zero {}, accumulation {}{}{}", l.tensor, l.data, l.zero,
                     l.accumulation, l.sequence ? ", sequence" : "",
                     l.overlap ? "" : ", no overlap");
}

TrainingLayout OnDevice(TrainingLayout layout) {
  layout.device = Device::kCuda;
  return layout;
}

// Graphs are captured with one batch's arguments and launched for others, whose numbers of
// separators differ.
TEST(CudaTraining, GraphsChangeNoBit) {
  constexpr int kSteps = 5, kAccumulation = 4;
  for (const bool recompute : {false, true}) {
    TrainingLayout layout = {
        .accumulation = kAccumulation, .device = Device::kCuda, .recompute = recompute};
    const TrainingCurve op_by_op = TrainTiny(layout, kSteps, DType::kBFloat16);
    layout.graphs = true;
    kernels::GraphCounts counts;
    EXPECT_TRUE(TrainTiny(layout, kSteps, DType::kBFloat16, &counts) == op_by_op);
    std::printf("%d op by op, %d launched, of these %d captured and %d updated\n",
                static_cast<int>(counts.op_by_op), static_cast<int>(counts.launched),
                static_cast<int>(counts.captured), static_cast<int>(counts.updated));
    EXPECT_EQ(counts.op_by_op, 2);  // gradients written and added to
    EXPECT_EQ(counts.launched, kSteps * kAccumulation - 2);
    EXPECT_GT(counts.captured, 3);                    // misses
    EXPECT_GT(counts.launched, counts.captured + 5);  // hits
    EXPECT_EQ(counts.stale, 0);
  }
}

// Micro-batches that talk to other ranks stay outside; copies and collectives are late.
TEST(CudaTraining, GraphsBesideCollectivesChangeNoBit) {
  kernels::OpenDevice(Device::kCuda);  // the compute stream is not late
  constexpr int kSteps = 2;
  for (TrainingLayout layout : {TrainingLayout{.data = 2, .zero = 0, .accumulation = 4},
                                TrainingLayout{.data = 2, .zero = 1, .accumulation = 4},
                                TrainingLayout{.data = 2, .accumulation = 4, .overlap = false}}) {
    layout.device = Device::kCuda;
    SCOPED_TRACE(Name(layout));
    const TrainingCurve op_by_op = TrainTiny(layout, kSteps, DType::kBFloat16);
    layout.graphs = true;
    const kernels::cuda::emulation::LateStreams late;
    kernels::GraphCounts counts;
    EXPECT_TRUE(TrainTiny(layout, kSteps, DType::kBFloat16, &counts) == op_by_op);
    EXPECT_EQ(counts.launched + counts.op_by_op, kSteps * (layout.overlap ? 3 - layout.zero : 4));
    EXPECT_GT(counts.launched, 0);
  }
}

// Steps after the first find all memory in place.
TEST(CudaTraining, StepsAllocateNothing) {
  for (const TrainingLayout& layout :
       {TrainingLayout{.tensor = 2, .sequence = true, .accumulation = 2},
        TrainingLayout{.tensor = 2, .data = 2, .zero = 1},
        TrainingLayout{.data = 2, .zero = 2, .accumulation = 2},
        TrainingLayout{.accumulation = 2, .graphs = true}}) {
    SCOPED_TRACE(Name(layout));
    const auto allocations = [&](int steps) {
      const uint64_t before = kernels::cuda::NumAllocations();
      TrainTiny(OnDevice(layout), steps, DType::kBFloat16);
      return kernels::cuda::NumAllocations() - before;
    };
    allocations(1);  // what the process makes once
    EXPECT_EQ(allocations(2), allocations(1));
  }
}

// Over the stand-in of NCCL.
TEST(CudaTraining, TwoRanksFollowOne) {
  constexpr int kSteps = 2;
  const TrainingCurve one = TrainTiny({.device = Device::kCuda}, kSteps);
  for (const TrainingLayout& layout :
       {TrainingLayout{.tensor = 2}, TrainingLayout{.tensor = 2, .sequence = true},
        TrainingLayout{.data = 2, .zero = 0}, TrainingLayout{.data = 2, .zero = 1},
        TrainingLayout{.data = 2, .zero = 2, .accumulation = 2}}) {
    SCOPED_TRACE(Name(layout));
    ExpectCurvesAgree(TrainTiny(OnDevice(layout), kSteps), one, DType::kFloat32);
  }
}

// Collectives that run as late as hardware may run them, when the compute stream waits for them,
// and those that run when they are called give the same bits: everything that is read or written
// again has been waited for, with overlap and without.
TEST(CudaTraining, LateCollectivesChangeNoBit) {
  kernels::OpenDevice(Device::kCuda);  // the compute stream is not late
  constexpr int kSteps = 2;
  for (TrainingLayout layout :
       {TrainingLayout{.tensor = 2, .sequence = true},
        TrainingLayout{.data = 2, .zero = 1, .accumulation = 2},
        TrainingLayout{.data = 2, .zero = 2, .accumulation = 2},
        TrainingLayout{.tensor = 2, .data = 2, .zero = 2, .sequence = true}}) {
    const TrainingCurve at_once = TrainTiny(OnDevice(layout), kSteps, DType::kBFloat16);
    for (const bool overlap : {true, false}) {
      layout.overlap = overlap;
      SCOPED_TRACE(Name(layout));
      const kernels::cuda::emulation::LateStreams late;
      EXPECT_TRUE(TrainTiny(OnDevice(layout), kSteps, DType::kBFloat16) == at_once);
    }
  }
}

}  // namespace
}  // namespace sepia::testing
