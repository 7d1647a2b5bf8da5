#include "kernels/optimizer.h"

#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/elementwise.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/adamw.h"

namespace sepia::kernels {
namespace {

using sepia::testing::AdamWHyper;
using sepia::testing::AdamWState;
using sepia::testing::AdamWStep;
using testing::Copy;
using testing::ExpectWithin;
using testing::RandomTensor;
using testing::SameBits;
using testing::Scalar;
using testing::TestContext;
using testing::Values;

constexpr double kU32 = 0x1p-24;
constexpr double kU64 = 0x1p-53;

double SquaredNormOf(const OwnedTensor& x, int num_threads, GradMode mode = GradMode::kOverwrite,
                     double before = 0.0) {
  const OwnedTensor sum = Scalar(before);
  const int64_t size = x.view().num_elements();
  TestContext context(num_threads, SquaredNormScratchBytes(size, testing::kTestDevice));
  SquaredNorm(context, {.x = x, .sum = sum, .mode = mode});
  return Values(sum)[0];
}

TEST(SquaredNorm, MatchesLongDouble) {
  for (const int64_t size : {0, 1, 3, 7, 8, 9, 16383, 16384, 16385, 100000}) {
    const OwnedTensor x = RandomTensor(DType::kFloat32, {size}, 1, 3.0);
    long double expected = 0.0L;
    for (const double value : Values(x)) expected += static_cast<long double>(value) * value;
    // Squares of fp32 are exact in double; at most 16384 / 8 + 512 additions in a row.
    const double bound = 2600.0 * kU64 * static_cast<double>(expected);
    EXPECT_NEAR(SquaredNormOf(x, 2), static_cast<double>(expected), bound) << size;
    EXPECT_NEAR(SquaredNormOf(x, 2, GradMode::kAccumulate, 5.0),
                static_cast<double>(expected) + 5.0, bound + 1e-14);
  }
}

TEST(SquaredNorm, SameBitsForAnyNumberOfThreads) {
  const OwnedTensor x = RandomTensor(DType::kFloat32, {300001}, 1);
  const double expected = SquaredNormOf(x, 1);
  for (const int num_threads : testing::kThreadCounts) {
    EXPECT_EQ(SquaredNormOf(x, num_threads), expected) << num_threads;
  }
}

TEST(SquaredNorm, NonFiniteElementsShow) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    for (const int64_t place : {0, 7, 20000, 40000}) {
      OwnedTensor x = RandomTensor(DType::kFloat32, {40001}, 1);
      x.data<float>()[place] = bad;
      EXPECT_FALSE(std::isfinite(SquaredNormOf(x, 2))) << place;
    }
  }
  // Squares beyond fp32 are no overflow.
  OwnedTensor large(DType::kFloat32, {2});
  large.data<float>()[0] = 3e38f;
  EXPECT_TRUE(std::isfinite(SquaredNormOf(large, 1)));
}

struct Clip {
  double norm;
  double multiplier;
  int32_t skip;
};

Clip RunClip(double squared_norm, float loss_scale, double clip) {
  const OwnedTensor norm = Scalar(0.0);
  const OwnedTensor multiplier = Scalar(0.0f);
  const OwnedTensor skip = Scalar(int32_t{7});
  TestContext context(1);
  ClipFactor(context, {.squared_norm = Scalar(squared_norm),
                       .loss_scale = Scalar(loss_scale),
                       .clip = clip,
                       .norm = norm,
                       .grad_multiplier = multiplier,
                       .skip = skip});
  return {Values(norm)[0], Values(multiplier)[0], skip.data<int32_t>()[0]};
}

TEST(ClipFactor, FollowsTheFormula) {
  const Clip below = RunClip(0.25, 1.0f, 1.0);
  EXPECT_EQ(below.norm, 0.5);
  EXPECT_EQ(below.multiplier, 1.0);
  EXPECT_EQ(below.skip, 0);

  const Clip above = RunClip(16.0, 1.0f, 1.0);
  EXPECT_EQ(above.norm, 4.0);
  EXPECT_EQ(above.multiplier, static_cast<double>(static_cast<float>(1.0 / (4.0 + 1e-6))));

  // Gradients of a scaled loss: the norm is unscaled, the multiplier unscales.
  const Clip scaled = RunClip(16.0 * 4096.0 * 4096.0, 4096.0f, 2.0);
  EXPECT_EQ(scaled.norm, 4.0);
  EXPECT_EQ(scaled.multiplier,
            static_cast<double>(static_cast<float>(1.0 / 4096.0 / ((4.0 + 1e-6) / 2.0))));

  const Clip off = RunClip(1e6, 2.0f, 0.0);
  EXPECT_EQ(off.norm, 500.0);
  EXPECT_EQ(off.multiplier, 0.5);
}

TEST(ClipFactor, NonFiniteNormSkips) {
  for (const double bad :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const Clip clip = RunClip(bad, 4096.0f, 1.0);
    EXPECT_EQ(clip.skip, 1);
    EXPECT_FALSE(std::isfinite(clip.norm));
    EXPECT_TRUE(std::isfinite(clip.multiplier));
  }
}

struct Parameter {
  explicit Parameter(const ConstTensorView& masters, DType weight_dtype = DType::kBFloat16)
      : weight(weight_dtype, masters.shape()),
        m(DType::kFloat32, masters.shape()),
        v(DType::kFloat32, masters.shape()) {
    if (const auto dtype = MasterDType(weight_dtype)) {
      held_master = OwnedTensor(*dtype, masters.shape());
    }
    WriteValues(state(), StateRole::kMaster, masters);
  }
  explicit Parameter(int64_t size, DType weight_dtype = DType::kBFloat16)
      : Parameter(RandomTensor(DType::kFloat32, {size}, 1), weight_dtype) {}

  OptimizerState state() const { return {weight, held_master, m, v}; }
  OwnedTensor Read(StateRole role) const {
    OwnedTensor values(DType::kFloat32, weight.view().shape());
    ReadValues(state(), role, values);
    return values;
  }
  OwnedTensor master() const { return Read(StateRole::kMaster); }

  void Update(const OwnedTensor& grad, const AdamWHyper& h, int64_t t, float multiplier = 1.0f,
              int32_t skip = 0, int num_threads = 2) {
    TestContext context(num_threads);
    AdamWUpdate(context, {.state = state(),
                          .grad = grad,
                          .grad_multiplier = Scalar(multiplier),
                          .skip = Scalar(skip),
                          .lr = h.lr,
                          .beta1 = h.beta1,
                          .beta2 = h.beta2,
                          .eps = h.eps,
                          .weight_decay = h.weight_decay,
                          .t = t});
  }

  OwnedTensor weight, held_master, m, v;
};

bool SameState(const Parameter& a, const Parameter& b) {
  return SameBits(a.weight, b.weight) && SameBits(a.m, b.m) && SameBits(a.v, b.v) &&
         (a.held_master.view().empty() || SameBits(a.held_master, b.held_master));
}

OwnedTensor Rounded(const OwnedTensor& values, DType dtype) {
  OwnedTensor rounded(dtype, values.view().shape());
  TestContext context(1);
  Cast(context, values, rounded);
  return rounded;
}

constexpr AdamWHyper kPythia = {6e-4, 0.9, 0.95, 1e-8, 0.1};

// Ten steps against double. Per step m gathers 4 roundings relative to its terms, v 5, the ratio
// m / sqrt(v) therefore at most (4 + 5 / 2) t of sums of magnitudes, constants and operations 8
// more; each update of size lr ratio is wrong by that share, and p rounds once a step.
TEST(AdamW, TenStepsFollowDouble) {
  constexpr int64_t kSize = 1000;
  for (const AdamWHyper& h : {kPythia, AdamWHyper{1e-2, 0.8, 0.999, 1e-6, 0.0}}) {
    Parameter parameter(kSize);
    std::vector<AdamWState> states;
    std::vector<AdamWState> magnitudes;  // the same with |g|: what m would be without cancellation
    std::vector<double> bound(kSize);
    for (const double p : Values(parameter.master())) states.push_back({p, 0, 0});
    magnitudes = states;
    for (int64_t t = 1; t <= 10; ++t) {
      const OwnedTensor grad =
          RandomTensor(DType::kFloat32, {kSize}, 100 + static_cast<uint64_t>(t), 0.01);
      constexpr float kMultiplier = 0.37f;
      parameter.Update(grad, h, t, kMultiplier);
      const std::vector<double> g = Values(grad);
      for (size_t i = 0; i < kSize; ++i) {
        const double scaled = g[i] * static_cast<double>(kMultiplier);
        const double before = states[i].p;
        states[i] = AdamWStep(states[i], scaled, h, t);
        const double magnitude_before = magnitudes[i].p;
        magnitudes[i] = AdamWStep(magnitudes[i], std::abs(scaled), h, t);
        const double update = std::abs(magnitudes[i].p - magnitude_before) +
                              std::abs(states[i].p - before) +
                              h.lr * h.weight_decay * std::abs(before);
        bound[i] += kU32 * (std::abs(before) + (8.0 + 6.5 * static_cast<double>(t)) * update);
      }
    }
    std::vector<double> p, m, v;
    for (const AdamWState& s : states) p.push_back(s.p), m.push_back(s.m), v.push_back(s.v);
    ExpectWithin(
        parameter.master(), p, [&](size_t i) { return bound[i]; }, "p");
    ExpectWithin(
        parameter.m, m, [&](size_t i) { return 40.0 * kU32 * magnitudes[i].m; }, "m");
    ExpectWithin(
        parameter.Read(StateRole::kExpAvgSq), v, [&](size_t i) { return 50.0 * kU32 * v[i]; }, "v");

    // The compute weight is the master, rounded.
    EXPECT_TRUE(SameBits(Rounded(parameter.master(), DType::kBFloat16), parameter.weight));
  }
}

// The first update is lr sign(g) (with eps and decay zero), whatever the size of g.
TEST(AdamW, FirstStepIsTheLearningRate) {
  Parameter parameter(3);
  const OwnedTensor before = parameter.master();
  OwnedTensor grad(DType::kFloat32, {3});
  grad.data<float>()[0] = 1e-12f;
  grad.data<float>()[1] = -5.0f;
  grad.data<float>()[2] = 3e4f;
  parameter.Update(grad, {1e-2, 0.9, 0.95, 0.0, 0.0}, 1);
  const double signs[] = {1.0, -1.0, 1.0};
  for (size_t i = 0; i < 3; ++i) {
    const double expected = Values(before)[i] - 1e-2 * signs[i];
    EXPECT_NEAR(Values(parameter.master())[i], expected, 2e-7);
  }
}

TEST(AdamW, ZeroGradientsOnlyDecay) {
  Parameter parameter(100, DType::kFloat32);
  const std::vector<double> before = Values(parameter.master());
  parameter.Update(OwnedTensor(DType::kFloat32, {100}), kPythia, 1);
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_NEAR(Values(parameter.master())[i], before[i] * (1.0 - 6e-5),
                2.0 * kU32 * std::abs(before[i]));
  }
}

TEST(AdamW, SkipLeavesEverything) {
  Parameter parameter(50);
  const Parameter before(50);
  parameter.Update(RandomTensor(DType::kFloat32, {50}, 9), kPythia, 1, 1.0f, 1);
  EXPECT_TRUE(SameState(parameter, before));
}

TEST(AdamW, SameBitsForAnyNumberOfThreadsAndAnySlicing) {
  constexpr int64_t kSize = 70001;
  const OwnedTensor grad = RandomTensor(DType::kFloat32, {kSize}, 2);
  Parameter expected(kSize);
  expected.Update(grad, kPythia, 3, 1.0f, 0, 1);
  for (const int num_threads : testing::kThreadCounts) {
    Parameter parameter(kSize);
    parameter.Update(grad, kPythia, 3, 1.0f, 0, num_threads);
    EXPECT_TRUE(SameState(parameter, expected)) << num_threads;
  }
  // Slices of odd sizes, as ZeRO-1 cuts them.
  const Parameter sliced(kSize);
  TestContext context(2);
  const OwnedTensor one = Scalar(1.0f);
  const OwnedTensor no = Scalar(int32_t{0});
  for (int64_t begin = 0; begin < kSize; begin += 1237) {
    const int64_t count = std::min<int64_t>(1237, kSize - begin);
    AdamWUpdate(context, {.state = Rows(sliced.state(), begin, count),
                          .grad = grad.view().Rows(begin, count),
                          .grad_multiplier = one,
                          .skip = no,
                          .lr = kPythia.lr,
                          .beta1 = kPythia.beta1,
                          .beta2 = kPythia.beta2,
                          .eps = kPythia.eps,
                          .weight_decay = kPythia.weight_decay,
                          .t = 3});
  }
  EXPECT_TRUE(SameState(sliced, expected));
}

// Numbers halfway between two bf16 numbers, of both signs and all sizes, even ones and odd ones
// below them; and ordinary numbers.
OwnedTensor ManyTies(int64_t size) {
  OwnedTensor values = RandomTensor(DType::kFloat32, {size}, 1);
  for (int64_t i = 0; i < size; i += 2) {
    float& value = values.data<float>()[i];
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    value = std::bit_cast<float>((bits & 0xffff0000u) | 0x8000u);
  }
  return values;
}

// How masters are held changes nothing: every dtype makes the bits that plain fp32 makes. Rates of
// zero keep ties what they are; the others make new ones now and then.
TEST(AdamW, SameBitsHoweverMastersAreHeld) {
  constexpr int64_t kSize = 20011;
  const OwnedTensor masters = ManyTies(kSize);
  Parameter plain(masters, DType::kFloat32), half(masters, DType::kFloat16),
      split(masters, DType::kBFloat16);
  for (int64_t t = 1; t <= 6; ++t) {
    const OwnedTensor grad =
        RandomTensor(DType::kFloat32, {kSize}, 10 + static_cast<uint64_t>(t), 0.01);
    AdamWHyper h = kPythia;
    if (t <= 3) h.lr = 0;
    for (Parameter* parameter : {&plain, &half, &split}) parameter->Update(grad, h, t, 0.5f);
    for (const Parameter* parameter : {&half, &split}) {
      for (const StateRole role : {StateRole::kMaster, StateRole::kExpAvg, StateRole::kExpAvgSq}) {
        EXPECT_TRUE(SameBits(parameter->Read(role), plain.Read(role)))
            << t << " " << static_cast<int>(role);
      }
      EXPECT_TRUE(
          SameBits(parameter->weight, Rounded(plain.weight, parameter->weight.view().dtype())));
    }
  }
}

}  // namespace
}  // namespace sepia::kernels
