#include "kernels/cpu/amx/gemm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_features.h"
#include "tests/kernels/gemm_operand.h"
#include "tests/oracle/matrix.h"

namespace sepia::kernels::cpu::amx {
namespace {

using sepia::testing::Absolute;
using sepia::testing::Product;
using testing::ExpectWithin;
using testing::MakeOperand;
using testing::Operand;
using testing::RandomTensor;
using testing::RoundingError;
using testing::SameBits;
using testing::TestContext;
using testing::Values;

struct Size {
  int64_t m, n, k;
};

// The tile code in hardware and, on any machine with AVX-512, on emulated tiles.
class AmxGemmTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    const std::vector<Isa> isas = RunnableIsas();
    if (std::find(isas.begin(), isas.end(), GetParam()) == isas.end()) {
      GTEST_SKIP() << "this machine has no " << IsaName(GetParam());
    }
  }
  const GemmCode& code() const {
    return GetParam() == Isa::kAmx ? hardware::kGemmCode : emulated::kGemmCode;
  }
  void Multiply(int num_threads, const Operand& a, const Operand& b, int64_t k,
                const ConstTensorView& bias, const TensorView& c, GradMode mode) const {
    TestContext context(num_threads, GemmScratchBytes(c.dim(0), c.dim(1), k, num_threads));
    Gemm(context,
         {.a = a.ref,
          .b = b.ref,
          .dtype = DType::kBFloat16,
          .k = k,
          .bias = bias,
          .c = c,
          .mode = mode},
         code());
    EXPECT_EQ(context.arena().used_bytes(), 0);
  }
};

INSTANTIATE_TEST_SUITE_P(All, AmxGemmTest, ::testing::Values(Isa::kAvx512, Isa::kAmx),
                         [](const auto& isa) { return std::string(IsaName(isa.param)); });

// Products of bf16 are exact in fp32; k additions, that of the bias and that of c round once each,
// in any order; then one rounding to c's dtype.
void ExpectProduct(const TensorView& c, const std::vector<double>& rest, const Operand& a,
                   const Operand& b, int64_t k) {
  const auto m = static_cast<size_t>(c.dim(0));
  const auto n = static_cast<size_t>(c.dim(1));
  std::vector<double> expected = Product(a.values, b.values, m, n, static_cast<size_t>(k));
  std::vector<double> magnitude =
      Product(Absolute(a.values), Absolute(b.values), m, n, static_cast<size_t>(k));
  for (size_t i = 0; i < expected.size(); ++i) {
    expected[i] += rest[i];
    magnitude[i] += std::abs(rest[i]);
  }
  ExpectWithin(
      c, expected,
      [&](size_t i) {
        const double sum_error = static_cast<double>(k + 3) * 0x1p-24 * magnitude[i] + 1e-37;
        return sum_error + RoundingError(c.dtype(), std::abs(expected[i]) + sum_error);
      },
      "c");
}

// Around panels (32), steps and parts of the depth (32, 256), tasks (64 .. 256 rows, 192 .. 768
// columns).
TEST_P(AmxGemmTest, MatchesDouble) {
  for (const Size& size : {Size{1, 1, 1},
                           {3, 7, 5},
                           {31, 33, 31},
                           {32, 32, 32},
                           {33, 31, 33},
                           {65, 200, 255},
                           {64, 192, 256},
                           {70, 50, 257},
                           {130, 390, 70},
                           {300, 780, 40}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", size.m, size.n, size.k));
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        const DType dtype = DType::kBFloat16;
        const Operand a = MakeOperand(dtype, size.m, size.k, a_transposed, 1);
        const Operand b = MakeOperand(dtype, size.k, size.n, b_transposed, 2);
        const OwnedTensor c = RandomTensor(DType::kFloat32, {size.m, size.n}, 3);
        Multiply(2, a, b, size.k, {}, c, GradMode::kOverwrite);
        ExpectProduct(c, std::vector<double>(static_cast<size_t>(size.m * size.n)), a, b, size.k);
      }
    }
  }
}

TEST_P(AmxGemmTest, AddsBiasAndPreviousValues) {
  const Size size{37, 75, 300};
  const Operand a = MakeOperand(DType::kBFloat16, size.m, size.k, false, 1);
  const Operand b = MakeOperand(DType::kBFloat16, size.k, size.n, true, 2);
  for (const DType c_dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const DType bias_dtype : testing::kComputeDTypes) {
      SCOPED_TRACE(fmt::format("{} + {}", DTypeName(c_dtype), DTypeName(bias_dtype)));
      const OwnedTensor bias = RandomTensor(bias_dtype, {size.n}, 4);
      const OwnedTensor c = RandomTensor(c_dtype, {size.m, size.n}, 3);
      std::vector<double> rest = Values(c);
      const std::vector<double> added = Values(bias);
      for (size_t i = 0; i < rest.size(); ++i) rest[i] += added[i % added.size()];
      Multiply(2, a, b, size.k, bias, c, GradMode::kAccumulate);
      ExpectProduct(c, rest, a, b, size.k);
    }
  }
}

// More than one slab of the right operand: deeper than 8192, wider than 2^23 elements.
TEST_P(AmxGemmTest, CutsLargeOperands) {
  for (const Size& size : {Size{3, 40, 8200}, {2, 1400, 8192}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", size.m, size.n, size.k));
    const Operand a = MakeOperand(DType::kBFloat16, size.m, size.k, false, 1);
    const Operand b = MakeOperand(DType::kBFloat16, size.k, size.n, false, 2);
    const OwnedTensor c = RandomTensor(DType::kBFloat16, {size.m, size.n}, 3);
    const std::vector<double> rest = Values(c);
    Multiply(2, a, b, size.k, {}, c, GradMode::kAccumulate);
    ExpectProduct(c, rest, a, b, size.k);
  }
}

TEST_P(AmxGemmTest, SameBitsForAnyNumberOfThreads) {
  const Size size{290, 400, 600};
  const Operand a = MakeOperand(DType::kBFloat16, size.m, size.k, true, 1);
  const Operand b = MakeOperand(DType::kBFloat16, size.k, size.n, false, 2);
  const OwnedTensor first(DType::kFloat32, {size.m, size.n});
  Multiply(1, a, b, size.k, {}, first, GradMode::kOverwrite);
  for (const int num_threads : testing::kThreadCounts) {
    const OwnedTensor c(DType::kFloat32, {size.m, size.n});
    Multiply(num_threads, a, b, size.k, {}, c, GradMode::kOverwrite);
    EXPECT_TRUE(SameBits(first, c)) << num_threads << " threads";
  }
}

// What lies beyond an operand's rows, columns and depth must not count, not even as 0 * NaN.
TEST_P(AmxGemmTest, ReadsNothingBesideTheOperands) {
  const Size size{5, 9, 33};
  Operand a = MakeOperand(DType::kBFloat16, size.m, size.k, false, 1);
  const Operand b = MakeOperand(DType::kBFloat16, size.k, size.n, true, 2);
  for (int64_t row = 0; row < size.m; ++row) {
    for (int64_t p = size.k; p < size.k + 3; ++p) {
      testing::Set(a.tensor, row * (size.k + 3) + p, std::numeric_limits<float>::quiet_NaN());
    }
  }
  const OwnedTensor c(DType::kFloat32, {size.m, size.n});
  Multiply(1, a, b, size.k, {}, c, GradMode::kOverwrite);
  ExpectProduct(c, std::vector<double>(static_cast<size_t>(size.m * size.n)), a, b, size.k);
}

}  // namespace
}  // namespace sepia::kernels::cpu::amx
