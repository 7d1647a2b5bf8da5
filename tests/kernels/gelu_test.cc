#include "kernels/gelu.h"

#include <cmath>
#include <limits>
#include <tuple>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/isa/gelu_rows.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/gelu.h"

namespace sepia::kernels {
namespace {

using sepia::testing::Gelu;
using sepia::testing::GeluSlope;
using testing::Copy;
using testing::ExpectWithin;
using testing::RandomTensor;
using testing::RoundingError;
using testing::SameBits;
using testing::TestContext;
using testing::UnitRoundoff;
using testing::Values;

constexpr double kU32 = 0x1p-24;

struct Case {
  Case(DType dtype, int64_t rows, int64_t cols)
      : m(rows),
        f(cols),
        x(RandomTensor(dtype, {m, f}, 1, 2.0)),
        bias(RandomTensor(dtype, {f}, 2)),
        y(dtype, {m, f}),
        dy(RandomTensor(dtype, {m, f}, 3)),
        dx(dtype, {m, f}),
        dbias(RandomTensor(DType::kFloat32, {f}, 4)) {}

  void Forward(GeluKind kind, int num_threads) {
    TestContext context(num_threads);
    BiasGeluForward(context, {.x = x, .bias = bias, .y = y, .kind = kind});
  }
  void Backward(GeluKind kind, GradMode mode, int num_threads, const TensorView& to) {
    TestContext context(num_threads, BiasGeluScratchBytes(m, f, testing::kTestDevice));
    BiasGeluBackward(context, {.x = x,
                               .bias = bias,
                               .dy = dy,
                               .dx = to,
                               .dbias = dbias,
                               .kind = kind,
                               .grad_mode = mode});
  }

  int64_t m, f;
  OwnedTensor x, bias, y, dy, dx, dbias;
};

// x + bias is rounded to fp32 once; both functions have slopes of at most 1.13, and their own
// slopes at most 0.8, so that costs |v| u. The rest is a handful of roundings of quantities of at
// most |v| (value), or at most 1.13 (slope): the exponential's argument of size q, wrong by 3 q u,
// moves s by s (1 - s) 3 q u <= 0.7 u; exponential (2 ulp = 4 u), division, products: 12 u is above
// the sum of them all.
double ValueError(double v) { return 12.0 * kU32 * std::abs(v); }
double SlopeError(double v) { return 14.0 * kU32 * (1.0 + std::abs(v)); }

class GeluTest : public ::testing::TestWithParam<std::tuple<DType, GeluKind>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  GeluKind kind() const { return std::get<1>(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(All, GeluTest,
                         ::testing::Combine(::testing::ValuesIn(testing::kComputeDTypes),
                                            ::testing::Values(GeluKind::kTanh, GeluKind::kErf)));

TEST_P(GeluTest, ForwardMatchesDouble) {
  for (const int64_t f : {1, 3, 7, 15, 16, 17, 513}) {
    Case c(dtype(), 5, f);
    c.Forward(kind(), 2);
    const std::vector<double> x = Values(c.x);
    const std::vector<double> bias = Values(c.bias);
    std::vector<double> expected(x.size());
    std::vector<double> bounds(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = x[i] + bias[i % static_cast<size_t>(f)];
      expected[i] = Gelu(kind(), v);
      bounds[i] = ValueError(v) + RoundingError(dtype(), std::abs(expected[i]) + ValueError(v));
    }
    ExpectWithin(
        c.y, expected, [&](size_t i) { return bounds[i]; }, "y");
  }
}

TEST_P(GeluTest, BackwardMatchesDouble) {
  for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
    for (const int64_t f : {1, 3, 7, 17, 513}) {
      Case c(dtype(), 67, f);  // two row blocks
      std::vector<double> dbias = Values(c.dbias);
      if (mode == GradMode::kOverwrite) dbias.assign(dbias.size(), 0.0);
      c.Backward(kind(), mode, 2, c.dx);
      const std::vector<double> x = Values(c.x);
      const std::vector<double> bias = Values(c.bias);
      const std::vector<double> dy = Values(c.dy);
      std::vector<double> dx(x.size());
      std::vector<double> dx_bound(x.size());
      std::vector<double> dbias_bound(dbias.size());
      for (size_t j = 0; j < dbias.size(); ++j) dbias_bound[j] = std::abs(dbias[j]) * kU32;
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t j = i % dbias.size();
        const double v = x[i] + bias[j];
        dx[i] = dy[i] * GeluSlope(kind(), v);
        const double error = std::abs(dy[i]) * SlopeError(v);
        dx_bound[i] = error + RoundingError(dtype(), std::abs(dx[i]) + error);
        dbias[j] += dx[i];
        dbias_bound[j] += error + 70.0 * kU32 * std::abs(dx[i]);  // a sum of 68 terms
      }
      ExpectWithin(
          c.dx, dx, [&](size_t i) { return dx_bound[i]; }, "dx");
      ExpectWithin(
          c.dbias, dbias, [&](size_t i) { return dbias_bound[i]; }, "dbias");
    }
  }
}

TEST_P(GeluTest, BackwardInPlace) {
  Case c(dtype(), 9, 33);
  c.Backward(kind(), GradMode::kOverwrite, 1, c.dx);
  c.Backward(kind(), GradMode::kOverwrite, 1, c.dy);
  EXPECT_TRUE(SameBits(c.dx, c.dy));
}

// Backward gives the forward's result again, also in the place of x.
TEST_P(GeluTest, BackwardRepeatsTheValue) {
  for (const int64_t f : {1, 16, 47}) {
    Case c(dtype(), 67, f);
    c.Forward(kind(), 2);
    c.Backward(kind(), GradMode::kOverwrite, 2, c.dx);
    const OwnedTensor dx = Copy(c.dx);
    const OwnedTensor dbias = Copy(c.dbias);
    TestContext context(2, BiasGeluScratchBytes(c.m, f, testing::kTestDevice));
    BiasGeluBackward(context, {.x = c.x,
                               .bias = c.bias,
                               .dy = c.dy,
                               .dx = c.dy,
                               .dbias = c.dbias,
                               .y = c.x,
                               .kind = kind(),
                               .grad_mode = GradMode::kOverwrite});
    EXPECT_TRUE(SameBits(c.x, c.y) && SameBits(c.dy, dx) && SameBits(c.dbias, dbias)) << f;
  }
}

TEST_P(GeluTest, SameBitsForAnyNumberOfThreads) {
  Case c(dtype(), 300, 47);
  c.Forward(kind(), 1);
  c.Backward(kind(), GradMode::kOverwrite, 1, c.dx);
  const OwnedTensor y = Copy(c.y);
  const OwnedTensor dx = Copy(c.dx);
  const OwnedTensor dbias = Copy(c.dbias);
  for (const int num_threads : testing::kThreadCounts) {
    c.Forward(kind(), num_threads);
    c.Backward(kind(), GradMode::kOverwrite, num_threads, c.dx);
    EXPECT_TRUE(SameBits(c.y, y) && SameBits(c.dx, dx) && SameBits(c.dbias, dbias)) << num_threads;
  }
}

// The slope of the oracle is the oracle's derivative: central differences in double are exact to
// h^2 g'''/6 + u64 |g| / h, below 1e-9 for h = 1e-5.
TEST(GeluOracle, SlopeIsTheDerivative) {
  for (const GeluKind kind : {GeluKind::kTanh, GeluKind::kErf}) {
    for (double v = -6.0; v <= 6.0; v += 0.37) {
      const double difference = (Gelu(kind, v + 1e-5) - Gelu(kind, v - 1e-5)) / 2e-5;
      EXPECT_NEAR(GeluSlope(kind, v), difference, 1e-9) << v;
    }
  }
}

struct Sweep {
  std::vector<float> x, y, dx;
};

// gelu and its slope over x, on one instruction set.
Sweep RunSweep(GeluKind kind, cpu::Isa isa, std::vector<float> x) {
  const cpu::ScopedIsa scope(isa);
  Sweep sweep{std::move(x), {}, {}};
  const size_t size = sweep.x.size();
  sweep.y.resize(size);
  sweep.dx.resize(size);
  const std::vector<float> zeros(size);
  const std::vector<float> ones(size, 1.0f);
  std::vector<float> dbias(size);
  const auto count = static_cast<int64_t>(size);
  SEPIA_BY_ISA(BiasGelu)
  ({kind, DType::kFloat32, count, sweep.x.data(), zeros.data(), sweep.y.data()});
  SEPIA_BY_ISA(BiasGeluGradient)
  ({kind, DType::kFloat32, count, sweep.x.data(), zeros.data(), ones.data(), sweep.dx.data(),
    dbias.data()});
  return sweep;
}

TEST(GeluSweep, AccurateEverywhereOnEveryIsa) {
  std::vector<float> x;
  for (float v = -15.0f; v <= 15.0f; v += 0.00037f) x.push_back(v);
  for (const GeluKind kind : {GeluKind::kTanh, GeluKind::kErf}) {
    for (const cpu::Isa isa : {cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
      if (isa == cpu::Isa::kAvx512 && !cpu::DetectCpuFeatures().avx512) continue;
      const Sweep sweep = RunSweep(kind, isa, x);
      for (size_t i = 0; i < x.size(); ++i) {
        const auto v = static_cast<double>(x[i]);
        ASSERT_NEAR(static_cast<double>(sweep.y[i]), Gelu(kind, v), ValueError(v)) << v;
        ASSERT_NEAR(static_cast<double>(sweep.dx[i]), GeluSlope(kind, v), SlopeError(0)) << v;
      }
    }
  }
}

TEST(GeluSweep, ExtremeValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const GeluKind kind : {GeluKind::kTanh, GeluKind::kErf}) {
    const Sweep sweep = RunSweep(kind, cpu::Isa::kAvx2, {1e4f, -1e4f, infinity, nan, 0.0f});
    EXPECT_EQ(sweep.y[0], 1e4f);
    EXPECT_NEAR(sweep.y[1], 0.0f, 1e-30f);
    EXPECT_EQ(sweep.y[2], infinity);
    EXPECT_TRUE(std::isnan(sweep.y[3]));
    EXPECT_EQ(sweep.y[4], 0.0f);
    EXPECT_EQ(sweep.dx[0], 1.0f);
    EXPECT_NEAR(sweep.dx[1], 0.0f, 1e-20f);
    EXPECT_TRUE(std::isnan(sweep.dx[3]));
    EXPECT_EQ(sweep.dx[4], 0.5f);
  }
}

}  // namespace
}  // namespace sepia::kernels
