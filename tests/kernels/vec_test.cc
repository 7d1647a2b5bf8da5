// The vector type against the definitions of base/dtype.h and against double arithmetic.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.h"
#include "kernels/cpu/isa/convert_rows.h"

#define SEPIA_ISA avx2  // what this file is compiled for
#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu {
namespace {

std::vector<Isa> Isas() {
  std::vector<Isa> isas = {Isa::kAvx2};
  if (DetectCpuFeatures().avx512) isas.push_back(Isa::kAvx512);
  return isas;
}

class ConvertRowsTest : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Isas, ConvertRowsTest, testing::ValuesIn(Isas()),
                         [](const auto& param_info) {
                           return std::string(IsaName(param_info.param));
                         });

TEST_P(ConvertRowsTest, WidensEveryHalfPattern) {
  const ScopedIsa isa(GetParam());
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> wide(bits.size());
  SEPIA_BY_ISA(WidenRow)(DType::kBFloat16, bits.data(), 65536, wide.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), uint32_t{bits[i]} << 16);
  }
  SEPIA_BY_ISA(WidenRow)(DType::kFloat16, bits.data(), 65536, wide.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    const float expected = Float16::ToFloat(bits[i]);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
}

TEST_P(ConvertRowsTest, RoundsAsBaseDefines) {
  const ScopedIsa isa(GetParam());
  // Every half-precision rounding boundary and its neighbours, then random bit patterns.
  std::vector<float> values;
  for (uint32_t high = 0; high < 65536; ++high) {
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu, 0x1000u, 0x0fffu}) {
      values.push_back(std::bit_cast<float>((high << 16) | low));
    }
  }
  const PhiloxStream random(1, "patterns");
  for (uint64_t i = 0; i < 100000; ++i) values.push_back(std::bit_cast<float>(random.Bits(i)));
  const auto size = static_cast<int64_t>(values.size());
  std::vector<uint16_t> narrow(values.size());
  SEPIA_BY_ISA(NarrowRow)(DType::kBFloat16, values.data(), size, narrow.data());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(narrow[i], BFloat16::FromFloat(values[i])) << values[i];
  }
  SEPIA_BY_ISA(NarrowRow)(DType::kFloat16, values.data(), size, narrow.data());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(narrow[i], Float16::FromFloat(values[i])) << values[i];
  }
}

TEST_P(ConvertRowsTest, TouchesOnlyTheRow) {
  const ScopedIsa isa(GetParam());
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (int64_t count = 0; count <= 33; ++count) {
      const std::vector<float> from(static_cast<size_t>(count), 1.5f);
      std::vector<std::byte> to(200, std::byte{0xab});
      SEPIA_BY_ISA(NarrowRow)(dtype, from.data(), count, to.data());
      for (size_t i = static_cast<size_t>(count * DTypeSize(dtype)); i < to.size(); ++i) {
        ASSERT_EQ(to[i], std::byte{0xab});
      }
      std::vector<float> back(40, -7.0f);
      SEPIA_BY_ISA(WidenRow)(dtype, to.data(), count, back.data());
      for (size_t i = 0; i < back.size(); ++i) {
        ASSERT_EQ(back[i], i < static_cast<size_t>(count) ? 1.5f : -7.0f);
      }
    }
  }
}

// Largest relative error of fn(x) over [from, to], in units of 2^-24 (half an ulp of 1).
template <typename Fn, typename Exact>
double WorstError(float from, float to, const Fn& fn, const Exact& exact) {
  double worst = 0;
  constexpr int kSteps = 200000;
  for (int i = 0; i <= kSteps; ++i) {
    const float x = from + (to - from) * (static_cast<float>(i) / kSteps);
    float y[avx2::kLanes];
    avx2::Store(y, fn(avx2::Set(x)));
    const double expected = exact(static_cast<double>(x));
    worst = std::fmax(worst, std::fabs(y[3] - expected) / expected * 0x1p24);
  }
  return worst;
}

TEST(VecTest, ExponentialsAreAccurate) {
  // Exp2: 1.6 units for its polynomial of degree 5 (9.2e-8), half an ulp of the last FMA (results
  // in [0.707, 1.414] have ulp 2^-24 or 2^-23, so at most 1.42 units) and a third as much from the
  // FMA before it, scaled by |f| <= 1/2. Exp has a polynomial of degree 6 (no error of its own) and
  // adds the rounding of r * log2(e): |r| / 2 units.
  const auto exp2 = [](double x) { return std::exp2(x); };
  const auto exp = [](double x) { return std::exp(x); };
  EXPECT_LT(WorstError(-125.4f, 127.9f, avx2::Exp2, exp2), 3.5);
  EXPECT_LT(WorstError(-1.0f, 1.0f, avx2::Exp2, exp2), 3.5);
  EXPECT_LT(WorstError(-86.9f, 88.7f, avx2::Exp, exp), 3.0);
  EXPECT_LT(WorstError(-1.0f, 1.0f, avx2::Exp, exp), 3.0);
}

TEST(VecTest, ExponentialsAtTheEnds) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto first = [](avx2::Vec v) {
    float y[avx2::kLanes];
    avx2::Store(y, v);
    return y[0];
  };
  for (const float x : {-inf, -1e30f, -126.0f}) EXPECT_EQ(first(avx2::Exp2(avx2::Set(x))), 0.0f);
  for (const float x : {128.0f, 1e30f, inf}) EXPECT_EQ(first(avx2::Exp2(avx2::Set(x))), inf);
  for (const float x : {-inf, -1e30f, -88.0f}) EXPECT_EQ(first(avx2::Exp(avx2::Set(x))), 0.0f);
  for (const float x : {88.8f, 1e30f, inf}) EXPECT_EQ(first(avx2::Exp(avx2::Set(x))), inf);
  EXPECT_TRUE(std::isnan(first(avx2::Exp2(avx2::Set(std::nanf(""))))));
  EXPECT_TRUE(std::isnan(first(avx2::Exp(avx2::Set(std::nanf(""))))));
  EXPECT_EQ(first(avx2::Exp2(avx2::Zero())), 1.0f);
  EXPECT_EQ(first(avx2::Exp(avx2::Zero())), 1.0f);
}

}  // namespace
}  // namespace sepia::kernels::cpu
