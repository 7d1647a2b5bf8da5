#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"
#include "tests/oracle/layer_norm.h"

namespace sepia::kernels {
namespace {

using sepia::testing::LayerNorm;
using sepia::testing::LayerNormGradient;
using sepia::testing::LayerNormRow;
using testing::Copy;
using testing::ExpectWithin;
using testing::RandomTensor;
using testing::RoundingError;
using testing::SameBits;
using testing::TestContext;
using testing::Values;

constexpr double kU32 = 0x1p-24;
constexpr float kEps = 1e-5f;

using Vector = std::vector<double>;

struct Case {
  Case(DType dtype, int64_t rows, int64_t cols)
      : m(rows),
        c(cols),
        x(RandomTensor(dtype, {m, c}, 1)),
        gamma(RandomTensor(dtype, {c}, 2)),
        beta(RandomTensor(dtype, {c}, 3)),
        y(dtype, {m, c}),
        mean(DType::kFloat32, {m}),
        rstd(DType::kFloat32, {m}),
        dy(RandomTensor(dtype, {m, c}, 4)),
        dx(RandomTensor(dtype, {m, c}, 5)),
        dgamma(RandomTensor(DType::kFloat32, {c}, 6)),
        dbeta(RandomTensor(DType::kFloat32, {c}, 7)) {}

  void Forward(int num_threads) {
    TestContext context(num_threads);
    LayerNormForward(
        context,
        {.x = x, .gamma = gamma, .beta = beta, .y = y, .mean = mean, .rstd = rstd, .eps = kEps});
  }
  void Backward(int num_threads, GradMode dx_mode, GradMode grad_mode) {
    TestContext context(num_threads, LayerNormScratchBytes(m, c, testing::kTestDevice));
    LayerNormBackward(context, {.x = x,
                                .gamma = gamma,
                                .mean = mean,
                                .rstd = rstd,
                                .dy = dy,
                                .dx = dx,
                                .dgamma = dgamma,
                                .dbeta = dbeta,
                                .dx_mode = dx_mode,
                                .grad_mode = grad_mode});
  }

  int64_t m, c;
  OwnedTensor x, gamma, beta, y, mean, rstd, dy, dx, dgamma, dbeta;
};

Vector Row(const Vector& matrix, size_t row, size_t c) {
  return Vector(matrix.begin() + static_cast<ptrdiff_t>(row * c),
                matrix.begin() + static_cast<ptrdiff_t>((row + 1) * c));
}

// Sums of c terms take turns on four vectors of at least 8 lanes: c / 32 additions in a row, up to 3
// more of the last vectors, then the four, then the lanes. Mean and variance are relative to
// max |x - mean| and to themselves.
double SumError(size_t c) {
  const auto size = static_cast<double>(c);
  return (std::min(size, size / 32.0 + 8.0) + 8.0) * kU32;
}

// How far xhat may be off: the mean by SumError max|x| rstd, rstd by half of SumError, three
// roundings.
double NormalizedError(double largest_x, const LayerNormRow& row, size_t i) {
  return SumError(row.xhat.size()) * (largest_x * row.rstd + 2.0 * std::abs(row.xhat[i]));
}

double Largest(const Vector& values) {
  double largest = 0.0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

class LayerNormTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, LayerNormTest, ::testing::ValuesIn(testing::kComputeDTypes),
                         testing::DTypeParamName);

constexpr int64_t kWidths[] = {2, 3, 7, 8, 9, 128, 511, 512, 513, 1030};

TEST_P(LayerNormTest, ForwardMatchesDouble) {
  for (const int64_t width : kWidths) {
    Case c(GetParam(), 3, width);
    c.Forward(2);
    const auto size = static_cast<size_t>(width);
    const Vector x = Values(c.x);
    const Vector gamma = Values(c.gamma);
    for (size_t r = 0; r < 3; ++r) {
      const Vector xs = Row(x, r, size);
      const double largest_x = Largest(xs);
      const LayerNormRow row = LayerNorm(xs, gamma, Values(c.beta), static_cast<double>(kEps));
      const auto bound = [&](size_t i) {
        const double error = NormalizedError(largest_x, row, i) * std::abs(gamma[i]) +
                             2.0 * kU32 * (std::abs(row.xhat[i] * gamma[i]) + std::abs(row.y[i]));
        return error + RoundingError(GetParam(), std::abs(row.y[i]) + error);
      };
      ExpectWithin(c.y.view().Rows(static_cast<int64_t>(r), 1), row.y, bound, "y");
      EXPECT_NEAR(Values(c.mean)[r], row.mean, SumError(size) * 4.0);
      EXPECT_NEAR(Values(c.rstd)[r], row.rstd, 2.0 * SumError(size) * row.rstd);
    }
  }
}

void CheckBackward(Case& c, GradMode dx_mode, GradMode grad_mode) {
  const auto size = static_cast<size_t>(c.c);
  const auto rows = static_cast<size_t>(c.m);
  c.Forward(1);
  const bool adds_dx = dx_mode == GradMode::kAccumulate;
  const bool adds = grad_mode == GradMode::kAccumulate;
  const Vector before = Values(c.dx);
  Vector dgamma = adds ? Values(c.dgamma) : Vector(size);
  Vector dbeta = adds ? Values(c.dbeta) : Vector(size);
  Vector dgamma_bound(size, 1e-6);
  Vector dbeta_bound(size, 1e-6);
  c.Backward(2, dx_mode, grad_mode);
  const Vector x = Values(c.x);
  const Vector dy = Values(c.dy);
  const Vector gamma = Values(c.gamma);
  for (size_t r = 0; r < rows; ++r) {
    const Vector xs = Row(x, r, size);
    const double largest_x = Largest(xs);
    const Vector dys = Row(dy, r, size);
    const LayerNormRow row = LayerNorm(xs, gamma, gamma, static_cast<double>(kEps));
    Vector dx = LayerNormGradient(row, gamma, dys);
    double magnitude = 0.0;  // of the terms of the two means
    for (size_t i = 0; i < size; ++i) magnitude += std::abs(dys[i] * gamma[i]) / c.c;
    Vector bound(size);
    for (size_t i = 0; i < size; ++i) {
      const double xhat_error = NormalizedError(largest_x, row, i);
      const double largest_xhat = std::sqrt(static_cast<double>(size));
      const double scale =
          std::abs(dys[i] * gamma[i]) + magnitude * (1.0 + largest_xhat * std::abs(row.xhat[i]));
      bound[i] = row.rstd * scale * (2.0 * SumError(size) + 4.0 * xhat_error);
      if (adds_dx) dx[i] += before[r * size + i];
      bound[i] += RoundingError(c.x.view().dtype(), std::abs(dx[i]) + bound[i]);
      if (adds_dx) bound[i] += kU32 * std::abs(before[r * size + i]);
      dgamma[i] += dys[i] * row.xhat[i];
      dbeta[i] += dys[i];
      dgamma_bound[i] += std::abs(dys[i]) * (xhat_error + 72.0 * kU32 * std::abs(row.xhat[i]));
      dbeta_bound[i] += 72.0 * kU32 * std::abs(dys[i]);  // 64 rows of a block, then the blocks
    }
    ExpectWithin(
        c.dx.view().Rows(static_cast<int64_t>(r), 1), dx, [&](size_t i) { return bound[i]; }, "dx");
  }
  ExpectWithin(
      c.dgamma, dgamma, [&](size_t i) { return dgamma_bound[i]; }, "dgamma");
  ExpectWithin(
      c.dbeta, dbeta, [&](size_t i) { return dbeta_bound[i]; }, "dbeta");
}

TEST_P(LayerNormTest, BackwardMatchesDouble) {
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    for (const int64_t rows : {1, 65}) {
      Case overwrite(GetParam(), rows, width);
      CheckBackward(overwrite, GradMode::kOverwrite, GradMode::kOverwrite);
      Case accumulate(GetParam(), rows, width);
      CheckBackward(accumulate, GradMode::kAccumulate, GradMode::kAccumulate);
    }
  }
}

TEST_P(LayerNormTest, NoRows) {
  Case c(GetParam(), 0, 5);
  c.Forward(2);
  c.Backward(2, GradMode::kOverwrite, GradMode::kOverwrite);
  EXPECT_EQ(Values(c.dgamma), Vector(5));
  EXPECT_EQ(Values(c.dbeta), Vector(5));
}

// A single feature, and equal features: variance 0, so xhat = 0 and y = beta.
TEST_P(LayerNormTest, ConstantRowsGiveBeta) {
  Case c(GetParam(), 4, 1);
  c.Forward(1);
  for (const double y : Values(c.y)) EXPECT_EQ(y, Values(c.beta)[0]);
}

TEST_P(LayerNormTest, SameBitsForAnyNumberOfThreads) {
  Case c(GetParam(), 400, 130);
  c.Forward(1);
  c.Backward(1, GradMode::kOverwrite, GradMode::kOverwrite);
  const OwnedTensor y = Copy(c.y);
  const OwnedTensor dx = Copy(c.dx);
  const OwnedTensor dgamma = Copy(c.dgamma);
  const OwnedTensor dbeta = Copy(c.dbeta);
  for (const int num_threads : testing::kThreadCounts) {
    c.Forward(num_threads);
    c.Backward(num_threads, GradMode::kOverwrite, GradMode::kOverwrite);
    EXPECT_TRUE(SameBits(c.y, y) && SameBits(c.dx, dx)) << num_threads;
    EXPECT_TRUE(SameBits(c.dgamma, dgamma) && SameBits(c.dbeta, dbeta)) << num_threads;
  }
}

// fp32 statistics survive a mean that is large against the deviations: two passes, not
// E[x^2]-E[x]^2.
TEST(LayerNormPrecision, LargeMean) {
  Case c(DType::kFloat32, 1, 512);
  for (int64_t i = 0; i < 512; ++i) c.x.data<float>()[i] = 1000.0f + static_cast<float>(i % 7);
  c.Forward(1);
  const LayerNormRow row =
      LayerNorm(Values(c.x), Values(c.gamma), Values(c.beta), static_cast<double>(kEps));
  // The mean, off by SumError(512) 1000, shifts every xhat alike and the variance by its square.
  const Vector gamma = Values(c.gamma);
  ExpectWithin(
      c.y, row.y,
      [&](size_t i) { return 2.0 * SumError(512) * 1000.0 * row.rstd * std::abs(gamma[i]) + 1e-6; },
      "y");
  EXPECT_NEAR(Values(c.rstd)[0], row.rstd, 1e-5 * row.rstd);
}

// The oracle's gradient is the derivative of the oracle's forward (central differences, h = 1e-5:
// error h^2 times third derivatives of order rstd^3).
TEST(LayerNormOracle, GradientIsTheDerivative) {
  const Vector x = Values(RandomTensor(DType::kFloat64, {6}, 1));
  const Vector gamma = Values(RandomTensor(DType::kFloat64, {6}, 2));
  const Vector dy = Values(RandomTensor(DType::kFloat64, {6}, 3));
  const auto loss = [&](const Vector& at) {
    const LayerNormRow row = LayerNorm(at, gamma, gamma, 1e-5);
    double sum = 0.0;
    for (size_t i = 0; i < at.size(); ++i) sum += dy[i] * row.y[i];
    return sum;
  };
  const Vector dx = LayerNormGradient(LayerNorm(x, gamma, gamma, 1e-5), gamma, dy);
  for (size_t i = 0; i < x.size(); ++i) {
    Vector up = x;
    Vector down = x;
    up[i] += 1e-5;
    down[i] -= 1e-5;
    EXPECT_NEAR(dx[i], (loss(up) - loss(down)) / 2e-5, 1e-7);
  }
}

}  // namespace
}  // namespace sepia::kernels
