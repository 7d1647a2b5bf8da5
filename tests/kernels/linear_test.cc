#include "kernels/linear.h"

#include <gtest/gtest.h>

#include "kernels/lm_head.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/matrix.h"

namespace sepia::kernels {
namespace {

using sepia::testing::Absolute;
using sepia::testing::ColumnSums;
using sepia::testing::Product;
using sepia::testing::Transpose;
using testing::Copy;
using testing::ExpectWithin;
using testing::RandomTensor;
using testing::RoundingError;
using testing::SameBits;
using testing::TestContext;
using testing::UnitRoundoff;
using testing::Values;

// One layer with everything that forward and backward read and write.
struct Layer {
  Layer(DType dtype, int64_t rows, int64_t outputs, int64_t inputs)
      : m(rows),
        n(outputs),
        k(inputs),
        x(RandomTensor(dtype, {m, k}, 1)),
        w(RandomTensor(dtype, {n, k}, 2)),
        bias(RandomTensor(dtype, {n}, 3)),
        dy(RandomTensor(dtype, {m, n}, 4)),
        y(RandomTensor(dtype, {m, n}, 5)),
        dx(RandomTensor(dtype, {m, k}, 6)),
        dweight(RandomTensor(DType::kFloat32, {n, k}, 7)),
        dbias(RandomTensor(DType::kFloat32, {n}, 8)),
        weight{.canonical = w} {}

  TestContext MakeContext(int num_threads) const {
    return TestContext(num_threads, LinearScratchBytes(m, n, k, x.view().dtype(), num_threads,
                                                       testing::kTestDevice));
  }
  void Forward(int num_threads, GradMode mode = GradMode::kOverwrite, bool with_bias = true) {
    TestContext context = MakeContext(num_threads);
    LinearForward(context, {.x = x,
                            .weight = weight,
                            .bias = with_bias ? ConstTensorView(bias) : ConstTensorView(),
                            .y = y,
                            .mode = mode});
    EXPECT_EQ(context.arena().used_bytes(), 0);
  }
  void Backward(int num_threads, GradMode dx_mode, GradMode grad_mode) {
    TestContext context = MakeContext(num_threads);
    LinearBackward(context, {.x = x,
                             .weight = weight,
                             .dy = dy,
                             .dx = dx,
                             .dweight = dweight,
                             .dbias = dbias,
                             .dx_mode = dx_mode,
                             .grad_mode = grad_mode});
    EXPECT_EQ(context.arena().used_bytes(), 0);
  }

  int64_t m, n, k;
  OwnedTensor x, w, bias, dy, y, dx, dweight, dbias;
  Weight weight;
};

// c = a b + rest within the error of fp32 sums of k + rest_terms terms, each addition rounding once
// whatever the order ((k + 2) u sum |terms|; Higham, "Accuracy and Stability", 3.1), then one
// rounding to the result's dtype.
void ExpectProduct(const ConstTensorView& actual, const std::vector<double>& a,
                   const std::vector<double>& b, size_t m, size_t n, size_t k,
                   const std::vector<double>& rest, const std::vector<double>& rest_magnitude,
                   const std::string& what) {
  std::vector<double> expected = Product(a, b, m, n, k);
  std::vector<double> magnitude = Product(Absolute(a), Absolute(b), m, n, k);
  for (size_t i = 0; i < expected.size(); ++i) {
    expected[i] += rest[i];
    magnitude[i] += rest_magnitude[i];
  }
  const double sum_error = static_cast<double>(k + 2) * UnitRoundoff(DType::kFloat32);
  ExpectWithin(
      actual, expected,
      [&](size_t i) {
        const double before = sum_error * magnitude[i] + 1e-37;
        const bool is_f32 = actual.dtype() == DType::kFloat32;
        const double largest = std::abs(expected[i]) + before;
        return before + (is_f32 ? 0.0 : RoundingError(actual.dtype(), largest));
      },
      what);
}

std::vector<double> BroadcastRows(const std::vector<double>& row, size_t m) {
  std::vector<double> result;
  for (size_t i = 0; i < m; ++i) result.insert(result.end(), row.begin(), row.end());
  return result;
}

std::vector<double> Sum(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

void CheckForward(Layer& layer, GradMode mode, bool with_bias) {
  const auto m = static_cast<size_t>(layer.m);
  const auto n = static_cast<size_t>(layer.n);
  const auto k = static_cast<size_t>(layer.k);
  std::vector<double> rest(m * n);
  std::vector<double> magnitude(m * n);
  if (with_bias) rest = BroadcastRows(Values(layer.bias), m);
  magnitude = Absolute(rest);
  if (mode == GradMode::kAccumulate) {
    rest = Sum(rest, Values(layer.y));
    magnitude = Sum(magnitude, Absolute(Values(layer.y)));
  }
  layer.Forward(2, mode, with_bias);
  ExpectProduct(layer.y, Values(layer.x), Transpose(Values(layer.w), n, k), m, n, k, rest,
                magnitude, "y");
}

void CheckBackward(Layer& layer, GradMode dx_mode, GradMode grad_mode) {
  const auto m = static_cast<size_t>(layer.m);
  const auto n = static_cast<size_t>(layer.n);
  const auto k = static_cast<size_t>(layer.k);
  const auto previous = [](const OwnedTensor& tensor, GradMode mode) {
    std::vector<double> values = Values(tensor);
    if (mode == GradMode::kOverwrite) values.assign(values.size(), 0.0);
    return values;
  };
  const std::vector<double> dx = previous(layer.dx, dx_mode);
  const std::vector<double> dweight = previous(layer.dweight, grad_mode);
  const std::vector<double> dbias = previous(layer.dbias, grad_mode);
  layer.Backward(2, dx_mode, grad_mode);
  const std::vector<double> dy = Values(layer.dy);
  ExpectProduct(layer.dx, dy, Values(layer.w), m, k, n, dx, Absolute(dx), "dx");
  ExpectProduct(layer.dweight, Transpose(dy, m, n), Values(layer.x), n, k, m, dweight,
                Absolute(dweight), "dweight");
  ExpectProduct(layer.dbias, std::vector<double>(m, 1.0), dy, 1, n, m, dbias, Absolute(dbias),
                "dbias");
}

class LinearTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, LinearTest, ::testing::ValuesIn(testing::kComputeDTypes),
                         testing::DTypeParamName);

// Sizes around the tile edges (256 or 512 rows, 384 or 768 columns, widened panels of 1024), tiny
// ones, and long sums over few tiles, which are cut in depth (2048).
struct Size {
  int64_t m, n, k;
};
constexpr Size kSizes[] = {{1, 1, 1},    {1, 3, 7},    {7, 1, 3},     {3, 7, 1},    {31, 33, 17},
                           {255, 64, 9}, {256, 1, 5},  {257, 40, 8},  {5, 767, 16}, {3, 768, 32},
                           {2, 769, 33}, {4, 6, 1025}, {9, 12, 4096}, {1, 5, 6151}, {300, 800, 24}};

TEST_P(LinearTest, ForwardMatchesDouble) {
  for (const Size& size : kSizes) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", size.m, size.n, size.k));
    for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
      for (const bool with_bias : {false, true}) {
        Layer layer(GetParam(), size.m, size.n, size.k);
        CheckForward(layer, mode, with_bias);
      }
    }
  }
}

TEST_P(LinearTest, BackwardMatchesDouble) {
  for (const Size& size : kSizes) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", size.m, size.n, size.k));
    Layer overwrite(GetParam(), size.m, size.n, size.k);
    CheckBackward(overwrite, GradMode::kOverwrite, GradMode::kOverwrite);
    Layer accumulate(GetParam(), size.m, size.n, size.k);
    CheckBackward(accumulate, GradMode::kAccumulate, GradMode::kAccumulate);
  }
}

TEST_P(LinearTest, LongSumsInBackwardMatchDouble) {
  Layer layer(GetParam(), 4500, 6, 10);  // dweight sums over 4500 rows
  CheckBackward(layer, GradMode::kOverwrite, GradMode::kAccumulate);
}

TEST_P(LinearTest, NoRowsGiveZeroGradients) {
  Layer layer(GetParam(), 0, 5, 7);
  layer.Forward(2);
  layer.Backward(2, GradMode::kOverwrite, GradMode::kAccumulate);
  EXPECT_NE(Values(layer.dweight), std::vector<double>(35, 0.0));
  layer.Backward(2, GradMode::kOverwrite, GradMode::kOverwrite);
  EXPECT_EQ(Values(layer.dweight), std::vector<double>(35, 0.0));
  EXPECT_EQ(Values(layer.dbias), std::vector<double>(5, 0.0));
}

TEST_P(LinearTest, OptionalGradientsMayBeAbsent) {
  Layer layer(GetParam(), 5, 6, 7);
  const OwnedTensor dx = Copy(layer.dx);
  const OwnedTensor dbias = Copy(layer.dbias);
  TestContext context = layer.MakeContext(2);
  LinearBackward(context, {.x = layer.x,
                           .weight = layer.weight,
                           .dy = layer.dy,
                           .dx = {},
                           .dweight = layer.dweight,
                           .dbias = {},
                           .grad_mode = GradMode::kOverwrite});
  EXPECT_TRUE(SameBits(dx, layer.dx));
  EXPECT_TRUE(SameBits(dbias, layer.dbias));
  const OwnedTensor dweight = Copy(layer.dweight);
  LinearBackward(context, {.x = layer.x,
                           .weight = layer.weight,
                           .dy = layer.dy,
                           .dx = layer.dx,
                           .dweight = {},
                           .dbias = {},
                           .grad_mode = GradMode::kAccumulate});
  EXPECT_TRUE(SameBits(dweight, layer.dweight));
  EXPECT_FALSE(SameBits(dx, layer.dx));
}

TEST_P(LinearTest, InfinitiesAndNaNsReachTheirRowOnly) {
  Layer layer(GetParam(), 3, 4, 5);
  const auto make_infinite = [&](int64_t i) {
    switch (GetParam()) {
      case DType::kFloat32: layer.x.data<float>()[i] = INFINITY; break;
      case DType::kBFloat16: layer.x.data<BFloat16>()[i] = BFloat16(INFINITY); break;
      default: layer.x.data<Float16>()[i] = Float16(INFINITY);
    }
  };
  make_infinite(5);  // row 1
  layer.Forward(1);
  const std::vector<double> y = Values(layer.y);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isfinite(y[i]), i / 4 != 1) << i;
}

TEST(LinearChecks, MismatchesAreRefused) {
  Layer layer(DType::kFloat32, 3, 4, 5);
  TestContext context = layer.MakeContext(1);
  const OwnedTensor wrong(DType::kFloat32, {3, 5});
  EXPECT_THROW(
      LinearForward(context, {.x = layer.x, .weight = layer.weight, .bias = {}, .y = wrong}),
      InternalError);
  const OwnedTensor other_dtype(DType::kBFloat16, {3, 4});
  EXPECT_THROW(
      LinearForward(context, {.x = layer.x, .weight = layer.weight, .bias = {}, .y = other_dtype}),
      InternalError);
}

void ExpectSameBitsForAllThreadCounts(DType dtype, const Size& size) {
  SCOPED_TRACE(fmt::format("{} {} x {} x {}", DTypeName(dtype), size.m, size.n, size.k));
  Layer layer(dtype, size.m, size.n, size.k);
  layer.Forward(1);
  layer.Backward(1, GradMode::kOverwrite, GradMode::kOverwrite);
  const OwnedTensor y = Copy(layer.y);
  const OwnedTensor dx = Copy(layer.dx);
  const OwnedTensor dweight = Copy(layer.dweight);
  const OwnedTensor dbias = Copy(layer.dbias);
  for (const int num_threads : testing::kThreadCounts) {
    layer.Forward(num_threads);
    layer.Backward(num_threads, GradMode::kOverwrite, GradMode::kOverwrite);
    EXPECT_TRUE(SameBits(layer.y, y)) << "y, " << num_threads << " threads";
    EXPECT_TRUE(SameBits(layer.dx, dx)) << "dx, " << num_threads << " threads";
    EXPECT_TRUE(SameBits(layer.dweight, dweight)) << "dW, " << num_threads << " threads";
    EXPECT_TRUE(SameBits(layer.dbias, dbias)) << "db, " << num_threads << " threads";
  }
}

// Products of the presets, C = 128 ... 5120. Rows are few and the widest layers are cut to 512
// outputs, which keeps the test short; depths and strides are the real ones.
TEST_P(LinearTest, SameBitsForAnyNumberOfThreads) {
  for (const int64_t c : {128, 512, 768}) {
    ExpectSameBitsForAllThreadCounts(GetParam(), {70, 3 * c, c});
    ExpectSameBitsForAllThreadCounts(GetParam(), {300, c, 4 * c});
  }
  ExpectSameBitsForAllThreadCounts(GetParam(), {5000, 64, 48});  // gradients over many rows
  ExpectSameBitsForAllThreadCounts(GetParam(), {1, 512, 2048});  // generation
}

TEST_P(LinearTest, SameBitsForAnyNumberOfThreadsOnWideLayers) {
  for (const int64_t c : {1024, 2048, 2560, 4096, 5120}) {
    ExpectSameBitsForAllThreadCounts(GetParam(), {33, 512, c});
  }
}

}  // namespace
}  // namespace sepia::kernels
