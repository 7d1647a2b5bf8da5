#include "kernels/cpu/gemm_own.h"

#include <cmath>
#include <tuple>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_features.h"
#include "tests/kernels/gemm_operand.h"
#include "tests/oracle/matrix.h"

namespace sepia::kernels::cpu {
namespace {

using sepia::testing::Absolute;
using sepia::testing::Product;
using testing::ExpectWithin;
using testing::MakeOperand;
using testing::Operand;
using testing::RandomTensor;
using testing::Values;

class GemmOwnTest : public ::testing::TestWithParam<std::tuple<DType, Isa>> {
 protected:
  void SetUp() override {
    const bool has_avx512 = DetectCpuFeatures().avx512;
    if (isa() == Isa::kAvx512 && !has_avx512) GTEST_SKIP() << "this machine has no AVX-512";
  }
  DType dtype() const { return std::get<0>(GetParam()); }
  Isa isa() const { return std::get<1>(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(All, GemmOwnTest,
                         ::testing::Combine(::testing::ValuesIn(testing::kComputeDTypes),
                                            ::testing::Values(Isa::kAvx2, Isa::kAvx512)));

// Any order of k + 1 fused additions: (k + 2) u sum |terms|.
void CheckProduct(DType dtype, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k,
                  bool accumulate) {
  const OwnedTensor c = RandomTensor(DType::kFloat32, {m, n + 5}, 9);
  std::vector<double> expected = Values(c);
  std::vector<double> bounds(expected.size(), 1e-300);  // padding keeps its bits
  const auto rows = static_cast<size_t>(m);
  const auto cols = static_cast<size_t>(n);
  const auto depth = static_cast<size_t>(k);
  const std::vector<double> product = Product(a.values, b.values, rows, cols, depth);
  const std::vector<double> magnitude =
      Product(Absolute(a.values), Absolute(b.values), rows, cols, depth);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) {
      double& value = expected[i * (cols + 5) + j];
      const double before = accumulate ? value : 0.0;
      value = product[i * cols + j] + before;
      bounds[i * (cols + 5) + j] =
          static_cast<double>(k + 2) * 0x1p-24 * (magnitude[i * cols + j] + std::abs(before)) +
          1e-40;
    }
  }
  MultiplyTileOwn({.m = m,
                   .n = n,
                   .k = k,
                   .dtype = dtype,
                   .a = a.ref,
                   .b = b.ref,
                   .c = c.data<float>(),
                   .c_row_stride = n + 5,
                   .accumulate = accumulate});
  ExpectWithin(
      c, expected, [&](size_t i) { return bounds[i]; }, "c");
}

TEST_P(GemmOwnTest, MatchesDouble) {
  const ScopedIsa scope(isa());
  struct Size {
    int64_t m, n, k;
  };
  // Around register tiles (6 or 12 rows, 16 or 32 columns), packed depth (256), widened depth
  // (1024).
  for (const Size& size : {Size{1, 1, 1},
                           {3, 7, 5},
                           {6, 16, 8},
                           {7, 17, 255},
                           {12, 32, 256},
                           {13, 33, 257},
                           {24, 64, 512},
                           {11, 31, 1025},
                           {50, 70, 40}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", size.m, size.n, size.k));
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        const Operand a = MakeOperand(dtype(), size.m, size.k, a_transposed, 1);
        const Operand b = MakeOperand(dtype(), size.k, size.n, b_transposed, 2);
        CheckProduct(dtype(), a, b, size.m, size.n, size.k, false);
        CheckProduct(dtype(), a, b, size.m, size.n, size.k, true);
      }
    }
  }
}

}  // namespace
}  // namespace sepia::kernels::cpu
