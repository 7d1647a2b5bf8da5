#include "kernels/rotary.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"

namespace sepia::kernels {
namespace {

using testing::Copy;
using testing::ExpectWithin;
using testing::RandomTensor;
using testing::RoundingError;
using testing::SameBits;
using testing::TestContext;
using testing::Values;

constexpr double kU32 = 0x1p-24;

struct Tables {
  Tables(RotaryTables kind, int64_t length, int64_t half)
      : cos(DType::kFloat32, {length, half}), sin(DType::kFloat32, {length, half}) {
    BuildRotaryTables(kind, 10000.0, cos, sin);
  }
  OwnedTensor cos, sin;
};

// The angle in double is wrong in fp32 by two roundings of the frequency and one of the product:
// 3 u position frequency, and as much in cos and sin; power and exponent round before that, which
// ln(10000) = 9.2 amplifies: 12.5 u in all.
TEST(RotaryTables, Fp32MatchesTheFormula) {
  constexpr int64_t kHalf = 12;
  const Tables tables(RotaryTables::kFp32, 2048, kHalf);
  for (int64_t t = 0; t < 2048; t += 89) {
    for (int64_t j = 0; j < kHalf; ++j) {
      const double frequency = std::pow(10000.0, -2.0 * static_cast<double>(j) / (2.0 * kHalf));
      const double angle = static_cast<double>(t) * frequency;
      const double bound = 12.5 * kU32 * angle + kU32;
      EXPECT_NEAR(static_cast<double>(tables.cos.data<float>()[t * kHalf + j]), std::cos(angle),
                  bound);
      EXPECT_NEAR(static_cast<double>(tables.sin.data<float>()[t * kHalf + j]), std::sin(angle),
                  bound);
    }
  }
}

// NeoX v1.0 by hand for frequency number 1 of 8: 10000^(-1/8) = 0.31622776..., in fp16
// 1295 / 4096 = 0.316162109375. Position 2047 is exact in fp16; 2049 rounds to 2048.
TEST(RotaryTables, NeoxFp16RoundsEveryStep) {
  constexpr int64_t kHalf = 8;
  const Tables tables(RotaryTables::kNeoxFp16, 2050, kHalf);
  const auto half = [](double value) {
    return static_cast<float>(Float16(static_cast<float>(value)));
  };
  const auto entry = [&](const OwnedTensor& table, int64_t t) {
    return table.data<float>()[t * kHalf + 1];
  };
  constexpr double kFrequency = 1295.0 / 4096.0;
  // 2047 * 0.316162109375 = 647.18..., where fp16 steps by 1/2: 647.
  EXPECT_EQ(entry(tables.cos, 2047), half(std::cos(647.0)));
  EXPECT_EQ(entry(tables.sin, 2047), half(std::sin(647.0)));
  // 3 * 0.316162109375 = 0.948486328125 = 971.25 / 1024 in steps of 1/2048: 1942.5, a tie to even.
  EXPECT_EQ(entry(tables.cos, 3), half(std::cos(1942.0 / 2048.0)));
  EXPECT_EQ(entry(tables.cos, 1), half(std::cos(kFrequency)));
  EXPECT_EQ(entry(tables.cos, 2049), entry(tables.cos, 2048));
}

// research: against fp32 tables the angles are wrong by up to 0.37 rad below position 2048 with 8
// frequencies (head dimension 64, a quarter rotated).
TEST(RotaryTables, NeoxFp16DiffersFromFp32AsMeasuredInTorch) {
  const Tables exact(RotaryTables::kFp32, 2048, 8);
  const Tables rounded(RotaryTables::kNeoxFp16, 2048, 8);
  double sum = 0.0;
  const std::vector<double> a = Values(exact.cos);
  const std::vector<double> b = Values(rounded.cos);
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::abs(a[i] - b[i]);
    worst = std::max(worst, std::abs(a[i] - b[i]));
  }
  EXPECT_LT(worst, 0.37);
  EXPECT_NEAR(sum / static_cast<double>(a.size()), 0.01, 0.01);
}

struct Case {
  Case(DType dtype, int64_t b, int64_t t, int64_t h, int64_t d, int64_t rotary_dim)
      : qkv(RandomTensor(dtype, {b, t, h, 3, d}, 1)),
        tables(RotaryTables::kFp32, t + 1, rotary_dim / 2) {}

  RotaryArgs args() const { return {.qkv = qkv, .cos = tables.cos, .sin = tables.sin}; }

  OwnedTensor qkv;
  Tables tables;
};

class RotaryTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, RotaryTest, ::testing::ValuesIn(testing::kComputeDTypes),
                         testing::DTypeParamName);

// Expected values and bounds by complex multiplication: (a + ib) e^(i angle).
void CheckRotation(const Case& c, const std::vector<double>& before, double sign) {
  const int64_t t_size = c.qkv.view().dim(1);
  const int64_t h_size = c.qkv.view().dim(2);
  const int64_t d_size = c.qkv.view().dim(4);
  const int64_t half = c.tables.cos.view().dim(1);
  std::vector<double> expected = before;
  std::vector<double> bounds(before.size(), 1e-300);  // untouched elements keep their bits
  const DType dtype = c.qkv.view().dtype();
  for (int64_t row = 0; row < c.qkv.view().dim(0) * t_size; ++row) {
    for (int64_t part = 0; part < h_size * 3; ++part) {
      if (part % 3 == 2) continue;  // v
      for (int64_t j = 0; j < half; ++j) {
        const auto low = static_cast<size_t>((row * h_size * 3 + part) * d_size + j);
        const auto high = low + static_cast<size_t>(half);
        const int64_t entry = row % t_size * half + j;
        const auto cos = static_cast<double>(c.tables.cos.data<float>()[entry]);
        const double sin = sign * static_cast<double>(c.tables.sin.data<float>()[entry]);
        expected[low] = before[low] * cos - before[high] * sin;
        expected[high] = before[high] * cos + before[low] * sin;
        const double error = 2.0 * kU32 * (std::abs(before[low]) + std::abs(before[high]));
        bounds[low] = error + RoundingError(dtype, std::abs(expected[low]) + error);
        bounds[high] = error + RoundingError(dtype, std::abs(expected[high]) + error);
      }
    }
  }
  ExpectWithin(
      c.qkv, expected, [&](size_t i) { return bounds[i]; }, "qkv");
}

TEST_P(RotaryTest, RotatesPairsAndNothingElse) {
  for (const int64_t rotary_dim : {2, 6, 16, 24}) {
    Case c(GetParam(), 2, 5, 3, 24, rotary_dim);
    const std::vector<double> before = Values(c.qkv);
    TestContext context(2);
    RotaryForward(context, c.args());
    CheckRotation(c, before, 1.0);
    const std::vector<double> rotated = Values(c.qkv);
    RotaryBackward(context, c.args());
    CheckRotation(c, rotated, -1.0);
  }
}

TEST_P(RotaryTest, SameBitsForAnyNumberOfThreads) {
  Case expected(GetParam(), 3, 17, 2, 16, 8);
  TestContext one(1);
  RotaryForward(one, expected.args());
  for (const int num_threads : testing::kThreadCounts) {
    Case c(GetParam(), 3, 17, 2, 16, 8);
    TestContext context(num_threads);
    RotaryForward(context, c.args());
    EXPECT_TRUE(SameBits(c.qkv, expected.qkv)) << num_threads;
  }
}

}  // namespace
}  // namespace sepia::kernels
