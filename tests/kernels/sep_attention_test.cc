// Sep-Attention against the double oracle, its laws, and its independence of threads and scratch.
#include "kernels/sep_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_features.h"
#include "tests/kernels/attention_laws.h"
#include "tests/kernels/sep_attention_trial.h"

namespace sepia::kernels {
namespace {

using ::sepia::testing::AttentionProblem;
using ::sepia::testing::WithMagnitude;
using testing::ExpectMatchesOracle;
using testing::Set;
using testing::Values;
using Case = testing::AttentionCase;
using Trial = testing::AttentionTrial;

// Levels with code of their own here; tiles have theirs (amx_attention_test.cc).
std::vector<cpu::Isa> Isas() {
  std::vector<cpu::Isa> isas = cpu::RunnableIsas();
  std::erase(isas, cpu::Isa::kAmx);
  return isas;
}

class SepAttentionTest : public ::testing::TestWithParam<cpu::Isa> {
  cpu::ScopedIsa isa_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Isas, SepAttentionTest, ::testing::ValuesIn(Isas()),
                         [](const auto& param_info) {
                           return std::string(cpu::IsaName(param_info.param));
                         });

// Around every block size: 6 (register rows), 8, 16 (panels), 48 (group), 96 (tile, chunk),
// 192 (segment).
TEST_P(SepAttentionTest, LengthsAndWindowsAroundBlockEdges) {
  for (const int64_t seq_length : {1, 2, 3, 11, 12, 13, 31, 33, 47, 48, 49, 95, 96, 97, 101, 193}) {
    for (const int64_t window : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{48}, int64_t{97},
                                 seq_length - 1, seq_length, seq_length + 1}) {
      if (window < 1) continue;
      ExpectMatchesOracle({.seq_length = seq_length, .num_heads = 2, .window = window});
    }
  }
}

TEST_P(SepAttentionTest, Kinds) {
  for (const int32_t num_initial : {0, 1, 3, 40}) {
    Case c = {.seq_length = 149, .num_initial = num_initial};
    for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kSep,
                                     AttentionKind::kStreaming, AttentionKind::kFixedStride}) {
      c.kind = kind;
      c.stride = kind == AttentionKind::kFixedStride ? 5 : 0;
      ExpectMatchesOracle(c);
    }
  }
}

TEST_P(SepAttentionTest, HeadSizes) {
  for (const int64_t head_dim : {1, 3, 8, 16, 24, 32, 48, 64, 80, 96, 128, 256}) {
    ExpectMatchesOracle({.seq_length = 67, .head_dim = head_dim});
  }
}

TEST_P(SepAttentionTest, DTypes) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t head_dim : {5, 40, 64}) {
      ExpectMatchesOracle({.seq_length = 131, .head_dim = head_dim, .dtype = dtype});
    }
  }
}

TEST_P(SepAttentionTest, RowsOfVeryDifferentDensity) {
  ExpectMatchesOracle({.batch_size = 3,
                       .seq_length = 230,
                       .num_heads = 2,
                       .num_initial = 0,
                       .density = {0.0, 1.0, 0.1}});
}

// Odd head sizes end in half a cell and in partly filled vectors.
TEST_P(SepAttentionTest, DTypesAndHeadSizes) {
  for (const int64_t head_dim : {1, 3, 8, 32, 48, 64, 80, 96, 128, 256}) {
    ExpectMatchesOracle({.seq_length = 67, .head_dim = head_dim, .dtype = DType::kBFloat16});
  }
}

// The first and last lengths with and without packed keys, with none and all far-visible.
TEST_P(SepAttentionTest, LengthsAroundTheWindow) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const double density : {0.0, 0.16, 1.0}) {
      for (const int64_t seq_length : {1, 2, 63, 64, 65, 127, 211}) {
        ExpectMatchesOracle({.seq_length = seq_length,
                             .head_dim = 16,
                             .window = 64,
                             .density = {density},
                             .dtype = dtype});
      }
    }
  }
}

// A ring that wraps several times, several packed chunks; heads whole (a multiple of the threads)
// and in segments.
TEST_P(SepAttentionTest, LongSequences) {
  ExpectMatchesOracle({.seq_length = 1100, .num_heads = 2, .window = 130, .density = {0.5}});
  ExpectMatchesOracle({.seq_length = 601, .num_heads = 16, .window = 100, .density = {0.6}});
  ExpectMatchesOracle({.seq_length = 601, .num_heads = 1, .window = 30, .density = {0.5}});
  ExpectMatchesOracle({.seq_length = 601, .num_heads = 1, .kind = AttentionKind::kFull});
}

TEST_P(SepAttentionTest, RandomShapes) { testing::ExpectRandomShapesMatchTheOracle<Trial, Case>(); }

// Scores of several hundred: the softmax must not overflow, and its tail must vanish quietly.
TEST_P(SepAttentionTest, LargeScores) {
  ExpectMatchesOracle({.seq_length = 120, .head_dim = 16, .query_scale = 15});
}

TEST_P(SepAttentionTest, WindowCoversAllEqualsDense) {
  testing::ExpectWindowThatCoversAllIsDense<Trial>();
}
TEST_P(SepAttentionTest, AllSeparatorsEqualsDense) { testing::ExpectAllSeparatorsIsDense<Trial>(); }
TEST_P(SepAttentionTest, NoSeparatorsEqualsStreaming) {
  testing::ExpectNoSeparatorsIsStreaming<Trial>();
}

// With one thread heads are whole, and with other numbers some or all are cut into segments.
TEST_P(SepAttentionTest, SameBitsForAnyNumberOfThreads) {
  testing::ExpectSameBitsForAnyNumberOfThreads<Trial, Case>(
      {Case{.seq_length = 450, .window = 70}, Case{.seq_length = 450, .num_heads = 3, .window = 70},
       Case{.seq_length = 450, .num_heads = 17, .window = 70},
       Case{.batch_size = 2, .seq_length = 700, .window = 230, .density = {0.7, 0.02}},
       Case{.seq_length = 1500, .window = 20, .density = {0.5}, .dtype = DType::kBFloat16},
       Case{.seq_length = 600, .num_heads = 2, .kind = AttentionKind::kFull}});
}

TEST_P(SepAttentionTest, ScratchContentDoesNotMatter) {
  const Case c = {.seq_length = 250, .num_heads = 2, .head_dim = 24};
  Trial poisoned(c);
  Trial zeroed(c);
  poisoned.Compute(0xff);
  zeroed.Compute(0);
  poisoned.ExpectSame(zeroed);
}

// Divergence must stay visible: the loss scaler looks for it in the gradients.
TEST_P(SepAttentionTest, NonFiniteInputsReachTheOutputs) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), inf, -inf}) {
    for (const int64_t part : {0, 1, 2}) {
      Trial run({.seq_length = 60});
      Set(run.qkv(), (50 * 3 + part) * 8 + 2, bad);
      run.Compute();
      const std::vector<double> dqkv = Values(run.dqkv());
      EXPECT_TRUE(std::any_of(dqkv.begin(), dqkv.end(), [](double x) { return !std::isfinite(x); }))
          << bad << " in part " << part;
    }
  }
}

TEST_P(SepAttentionTest, NaNStaysAmongVisiblePairs) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t head_dim : {5, 24}) {
      testing::ExpectNaNStaysAmongVisiblePairs<Trial>(
          Case{.seq_length = 149, .head_dim = head_dim, .window = 41, .dtype = dtype});
    }
  }
  // Several segments; dense; two heads of which one is poisoned.
  testing::ExpectNaNStaysAmongVisiblePairs<Trial>(
      Case{.seq_length = 401, .window = 33, .density = {0.4}});
  testing::ExpectNaNStaysAmongVisiblePairs<Trial>(
      Case{.seq_length = 149, .num_heads = 2, .kind = AttentionKind::kFull});
}

TEST(SepAttentionScratchTest, CountingArenaSeesTheDeclaredSize) {
  for (const int64_t num_heads : {1, 2, 40}) {
    Arena scratch("scratch");
    Context ctx = {Device::kCpu, 3, &scratch};
    const ConstTensorView qkv(nullptr, DType::kBFloat16, {2, 1000, num_heads, 3, 64});
    const TensorView dqkv(nullptr, DType::kBFloat16, {2, 1000, num_heads, 3, 64});
    const TensorView out(nullptr, DType::kBFloat16, {2, 1000, num_heads, 64});
    const TensorView lse(nullptr, DType::kFloat32, {2, num_heads, 1000});
    SepAttentionForward(ctx, {.qkv = qkv, .index = nullptr, .window = 64, .out = out, .lse = lse});
    SepAttentionBackward(ctx, {.qkv = qkv,
                               .index = nullptr,
                               .window = 64,
                               .out = out,
                               .lse = lse,
                               .dout = out,
                               .dqkv = dqkv});
    EXPECT_LE(scratch.high_water_bytes(),
              SepAttentionScratchBytes({2, 1000, num_heads, 64, DType::kBFloat16, 3}));
  }
}

TEST(SepAttentionCheckTest, RefusesWhatDoesNotFit) {
  Trial run({.seq_length = 20});
  Arena scratch("scratch", 1 << 20);
  Context ctx = {Device::kCpu, 1, &scratch};
  const AttentionIndex other(std::vector<int32_t>(21, 0), 1, 21, {AttentionKind::kSep, 3, 0, {1}});
  EXPECT_THROW(
      SepAttentionForward(
          ctx,
          {.qkv = run.qkv(), .index = &other, .window = 4, .out = run.out(), .lse = run.lse()}),
      InternalError);
  EXPECT_THROW(
      SepAttentionForward(
          ctx,
          {.qkv = run.qkv(), .index = nullptr, .window = 0, .out = run.out(), .lse = run.lse()}),
      InternalError);
  EXPECT_THROW(
      SepAttentionForward(
          ctx,
          {.qkv = run.qkv(), .index = nullptr, .window = 4, .out = run.qkv(), .lse = run.lse()}),
      InternalError);
}

// The oracle's own backward against central differences of its forward.
// On machines without a device: cuDNN keeps 2 bytes a score where deterministic.
TEST(SepAttentionScratch, OfCudnnIsPlannedOnAnyMachine) {
  SepAttentionShape shape = {2, 1024, 3, 64, DType::kBFloat16, 1, Device::kCuda};
  const int64_t own = SepAttentionScratchBytes(shape);
  shape.full_attention = FullAttention::kCudnn;
  const int64_t scores = 2 * 3 * 1024 * 1024;
  EXPECT_LT(own, 2 * scores);
  EXPECT_GE(SepAttentionScratchBytes(shape), 2 * scores);
  EXPECT_LT(SepAttentionScratchBytes(shape), 2.1 * scores);
}

TEST(AttentionOracleTest, BackwardIsTheDerivativeOfForward) {
  Trial run({.batch_size = 2, .seq_length = 13, .num_heads = 2, .head_dim = 4, .window = 4});
  AttentionProblem problem = run.problem();
  const auto forward = ::sepia::testing::AttentionForward(problem);
  const PhiloxStream random(9, "dout");
  std::vector<double> dout(forward.out.value.size());
  for (size_t i = 0; i < dout.size(); ++i) dout[i] = random.Normal(i);
  const auto loss = [&] {
    const auto result = ::sepia::testing::AttentionForward(problem);
    double sum = 0;
    for (size_t i = 0; i < dout.size(); ++i) sum += dout[i] * result.out.value[i];
    return sum;
  };
  const WithMagnitude dqkv = ::sepia::testing::AttentionBackward(problem, forward.out.value, dout);
  // Central differences: truncation h^2 / 6 times a third derivative of order 10, and rounding
  // 2^-53 |loss| / h.
  const double h = 1e-5;
  for (size_t i = 0; i < problem.qkv.size(); ++i) {
    const double value = problem.qkv[i];
    problem.qkv[i] = value + h;
    const double above = loss();
    problem.qkv[i] = value - h;
    const double below = loss();
    problem.qkv[i] = value;
    ASSERT_NEAR((above - below) / (2 * h), dqkv.value[i], 1e-8) << i;
  }
}

}  // namespace
}  // namespace sepia::kernels
