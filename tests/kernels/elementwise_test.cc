#include "kernels/elementwise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"
#include "tests/oracle/matrix.h"

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

class ElementwiseTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, ElementwiseTest, ::testing::ValuesIn(testing::kComputeDTypes),
                         testing::DTypeParamName);

struct Residual {
  Residual(DType dtype, int64_t m, int64_t c)
      : x(RandomTensor(dtype, {m, c}, 1)),
        partial(RandomTensor(dtype, {m, c}, 2)),
        bias1(RandomTensor(dtype, {c}, 3)),
        bias2(RandomTensor(dtype, {c}, 4)),
        y(dtype, {m, c}) {}

  void Forward(bool two_biases, const TensorView& to, int num_threads = 2) {
    TestContext context(num_threads);
    const ConstTensorView second = two_biases ? ConstTensorView(bias2) : ConstTensorView();
    AddBiasResidualForward(context,
                           {.x = x, .partial = partial, .bias1 = bias1, .bias2 = second, .y = to});
  }

  OwnedTensor x, partial, bias1, bias2, y;
};

// At most three fp32 additions of partial sums no larger than the sum of magnitudes, one rounding.
TEST_P(ElementwiseTest, ResidualMatchesDouble) {
  for (const int64_t c : {1, 3, 7, 17, 512, 515}) {
    for (const bool two_biases : {false, true}) {
      Residual r(GetParam(), 19, c);
      r.Forward(two_biases, r.y);
      const std::vector<double> partial = Values(r.partial);
      const std::vector<double> bias1 = Values(r.bias1);
      const std::vector<double> bias2 = Values(r.bias2);
      std::vector<double> expected = Values(r.x);
      std::vector<double> bounds(expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        const size_t j = i % bias1.size();
        const double second = two_biases ? bias2[j] : 0.0;
        const double magnitude =
            std::abs(expected[i]) + std::abs(partial[i]) + std::abs(bias1[j]) + std::abs(second);
        expected[i] += partial[i] + bias1[j] + second;
        bounds[i] = 3.0 * kU32 * magnitude;
        bounds[i] += RoundingError(GetParam(), std::abs(expected[i]) + bounds[i]);
      }
      ExpectWithin(
          r.y, expected, [&](size_t i) { return bounds[i]; }, "y");
    }
  }
}

TEST_P(ElementwiseTest, ResidualInPlaceAndOnAnyNumberOfThreads) {
  Residual r(GetParam(), 70, 33);
  r.Forward(true, r.y, 1);
  const OwnedTensor expected = Copy(r.y);
  for (const int num_threads : testing::kThreadCounts) {
    r.Forward(true, r.y, num_threads);
    EXPECT_TRUE(SameBits(r.y, expected)) << num_threads;
  }
  Residual into_x(GetParam(), 70, 33);
  into_x.Forward(true, into_x.x);
  EXPECT_TRUE(SameBits(into_x.x, expected));
  Residual into_partial(GetParam(), 70, 33);
  into_partial.Forward(true, into_partial.partial);
  EXPECT_TRUE(SameBits(into_partial.partial, expected));
}

TEST_P(ElementwiseTest, BiasGradientsAreColumnSums) {
  for (const int64_t m : {0, 1, 63, 64, 65, 200}) {
    for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
      constexpr int64_t kWidth = 517;
      const OwnedTensor dy = RandomTensor(GetParam(), {m, kWidth}, 1);
      const OwnedTensor dbias1 = RandomTensor(DType::kFloat32, {kWidth}, 2);
      const OwnedTensor dbias2 = RandomTensor(DType::kFloat32, {kWidth}, 3);
      std::vector<double> before1 = Values(dbias1);
      std::vector<double> before2 = Values(dbias2);
      if (mode == GradMode::kOverwrite) before1.assign(kWidth, 0.0), before2.assign(kWidth, 0.0);
      TestContext context(2, ColumnSumScratchBytes(m, kWidth, testing::kTestDevice));
      AddBiasResidualBackward(context,
                              {.dy = dy, .dbias1 = dbias1, .dbias2 = dbias2, .grad_mode = mode});
      const auto rows = static_cast<size_t>(m);
      const std::vector<double> sums = sepia::testing::ColumnSums(Values(dy), rows, kWidth);
      const std::vector<double> magnitudes =
          sepia::testing::ColumnSums(sepia::testing::Absolute(Values(dy)), rows, kWidth);
      for (auto* before : {&before1, &before2}) {
        std::vector<double> expected = sums;
        for (size_t i = 0; i < sums.size(); ++i) expected[i] += (*before)[i];
        // 64 rows a block, four blocks, the old value: fewer than 70 additions in a row.
        const auto bound = [&](size_t i) {
          return 70.0 * kU32 * (magnitudes[i] + std::abs((*before)[i])) + 1e-40;
        };
        ExpectWithin(before == &before1 ? dbias1 : dbias2, expected, bound, "dbias");
      }
    }
  }
}

TEST_P(ElementwiseTest, AddRoundsTheExactSumOnce) {
  for (const int64_t size : {0, 1, 3, 7, 15, 16, 17, 511, 512, 513, 20000}) {
    const OwnedTensor a = RandomTensor(GetParam(), {size}, 1);
    const OwnedTensor b = RandomTensor(GetParam(), {size}, 2);
    const OwnedTensor y(GetParam(), {size});
    TestContext context(2);
    Add(context, {.a = a, .b = b, .y = y});
    const std::vector<double> as = Values(a);
    const std::vector<double> bs = Values(b);
    std::vector<double> sums(as.size());
    for (size_t i = 0; i < as.size(); ++i) sums[i] = as[i] + bs[i];
    // bf16 and f16 values add in fp32 with an error far below their own rounding.
    const auto bound = [&](size_t i) {
      return kU32 * std::abs(sums[i]) + RoundingError(GetParam(), sums[i]) + 1e-40;
    };
    ExpectWithin(y, sums, bound, "y");
    Add(context, {.a = a, .b = b, .y = a});
    EXPECT_TRUE(SameBits(a, y));
  }
}

class HalfCastTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, HalfCastTest, ::testing::Values(DType::kBFloat16, DType::kFloat16),
                         testing::DTypeParamName);

// Every pattern widens exactly, and rounds back to itself.
TEST_P(HalfCastTest, EveryPatternRoundTrips) {
  const OwnedTensor half(GetParam(), {65536});
  auto* bits = static_cast<uint16_t*>(half.view().raw());
  for (int32_t i = 0; i < 65536; ++i) bits[i] = static_cast<uint16_t>(i);
  const OwnedTensor wide(DType::kFloat32, {65536});
  const OwnedTensor back(GetParam(), {65536});
  TestContext context(2);
  Cast(context, half, wide);
  Cast(context, wide, back);
  const auto* back_bits = static_cast<const uint16_t*>(back.view().raw());
  for (size_t i = 0; i < 65536; ++i) {
    const auto pattern = static_cast<uint16_t>(i);
    const float expected = GetParam() == DType::kBFloat16
                               ? std::bit_cast<float>(static_cast<uint32_t>(i) << 16)
                               : Float16::ToFloat(pattern);
    const float value = wide.data<float>()[i];
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(expected)) << i;
      ASSERT_EQ(back_bits[i], pattern);
    }
  }
}

// Rounding of arbitrary fp32 bits is base/dtype.h's.
TEST_P(ElementwiseTest, CastRoundsAsBaseDefines) {
  const OwnedTensor random = testing::RandomTokens({100000}, INT32_MAX, 1);
  OwnedTensor wide(DType::kFloat32, {100000});
  std::memcpy(wide.view().raw(), random.view().raw(), 400000);
  for (int64_t i = 0; i < 100000; i += 2) wide.data<float>()[i] *= -1.0f;
  const OwnedTensor narrow(GetParam(), {100000});
  TestContext context(2);
  Cast(context, wide, narrow);
  for (int64_t i = 0; i < 100000; ++i) {
    const float value = wide.data<float>()[i];
    if (std::isnan(value)) continue;
    switch (GetParam()) {
      case DType::kFloat32: ASSERT_EQ(narrow.data<float>()[i], value); break;
      case DType::kBFloat16:
        ASSERT_EQ(narrow.data<BFloat16>()[i].bits, BFloat16::FromFloat(value)) << value;
        break;
      default: ASSERT_EQ(narrow.data<Float16>()[i].bits, Float16::FromFloat(value)) << value;
    }
  }
}

TEST(Zero, ClearsEveryByte) {
  for (const int64_t size : {0, 1, 7, 3000000}) {
    const OwnedTensor y(DType::kUInt8, {size});
    std::fill_n(y.data<uint8_t>(), size, uint8_t{0xff});
    TestContext context(2);
    Zero(context, y);
    for (int64_t i = 0; i < size; ++i) ASSERT_EQ(y.data<uint8_t>()[i], 0);
  }
}

}  // namespace
}  // namespace sepia::kernels
