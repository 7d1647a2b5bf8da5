#include "kernels/lm_head.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"
#include "tests/oracle/cross_entropy.h"
#include "tests/oracle/matrix.h"

namespace sepia::kernels {
namespace {

using sepia::testing::Absolute;
using sepia::testing::CrossEntropy;
using sepia::testing::CrossEntropyGradient;
using sepia::testing::Product;
using sepia::testing::Transpose;
using testing::Copy;
using testing::ExpectWithin;
using testing::RandomTensor;
using testing::RandomTokens;
using testing::RoundingError;
using testing::SameBits;
using testing::Scalar;
using testing::TestContext;
using testing::UnitRoundoff;
using testing::Values;

constexpr double kU32 = 0x1p-24;

using Vector = std::vector<double>;

struct Head {
  Head(DType dtype, int64_t rows, int64_t width, int64_t vocab_size)
      : m(rows),
        c(width),
        v(vocab_size),
        x(RandomTensor(dtype, {m, c}, 1)),
        w(RandomTensor(dtype, {v, c}, 2, 0.3)),
        targets(RandomTokens({m}, static_cast<int32_t>(v), 3)),
        mask(DType::kUInt8, {m}),
        loss(Scalar(0.25)),
        scale(Scalar(0.125f)),
        dx(RandomTensor(dtype, {m, c}, 4)),
        dweight(RandomTensor(DType::kFloat32, {v, c}, 5)),
        weight{.canonical = w} {
    for (int64_t i = 0; i < m; ++i) mask.data<uint8_t>()[i] = i % 3 != 1;
  }

  TestContext MakeContext(int num_threads) const {
    return TestContext(num_threads, LmHeadScratchBytes(m, c, v, x.view().dtype(), num_threads, 1,
                                                       testing::kTestDevice));
  }
  LmHeadLossArgs Args(bool masked, GradMode mode) const {
    return {.x = x,
            .weight = weight,
            .targets = targets,
            .loss_mask = masked ? ConstTensorView(mask) : ConstTensorView(),
            .loss_sum = loss,
            .loss_mode = mode,
            .grad_scale = scale,
            .dx = dx,
            .dweight = dweight,
            .grad_mode = mode};
  }
  void Run(int num_threads, bool masked, GradMode mode, bool with_gradients = true) {
    TestContext context = MakeContext(num_threads);
    LmHeadLossArgs args = Args(masked, mode);
    if (!with_gradients) {
      args.grad_scale = {};
      args.dx = {};
      args.dweight = {};
    }
    LmHeadLoss(context, args);
  }

  // The vocabulary in parts, as ranks would compute it: dx is the rounded sum of the parts'. The
  // first pass only learns the statistics that the second one gathers.
  void RunInParts(int num_parts, bool masked, GradMode mode) {
    const int64_t rows = v / num_parts;
    std::vector<double> sum(static_cast<size_t>(m * c));
    std::vector<double> statistics;
    const double loss_before = loss.data<double>()[0];
    const OwnedTensor dweight_before = Copy(dweight);
    for (const bool learning : {true, false}) {
      std::vector<double> learned;
      for (int part = 0; part < num_parts; ++part) {
        loss.data<double>()[0] = loss_before;
        const Weight part_weight{.canonical = w.view().Rows(part * rows, rows)};
        LmHeadLossArgs args = Args(masked, mode);
        const LmHeadLossArgs part_args{
            .x = args.x,
            .weight = part_weight,
            .targets = args.targets,
            .loss_mask = args.loss_mask,
            .loss_sum = args.loss_sum,
            .loss_mode = mode,
            .grad_scale = args.grad_scale,
            .dx = args.dx,
            .dweight = dweight.view().Rows(part * rows, rows),
            .grad_mode = mode,
            .vocabulary = {part, num_parts},
            .gather_statistics = [&](ConstTensorView own, TensorView all) {
              const auto values = own.span<double>();
              learned.insert(learned.end(), values.begin(), values.end());
              if (!learning) std::copy(statistics.begin(), statistics.end(), all.data<double>());
            }};
        TestContext context(2, LmHeadScratchBytes(m, c, rows, x.view().dtype(), 2, num_parts,
                                                  testing::kTestDevice));
        LmHeadLoss(context, part_args);
        if (learning) continue;
        const std::vector<double> part_dx = Values(dx);
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += part_dx[i];
      }
      statistics = learned;
      if (learning)
        std::memcpy(dweight.view().raw(), dweight_before.view().raw(),
                    static_cast<size_t>(dweight.view().num_bytes()));
    }
    for (size_t i = 0; i < sum.size(); ++i) {
      testing::Set(dx, static_cast<int64_t>(i), static_cast<float>(sum[i]));
    }
  }

  int64_t m, c, v;
  OwnedTensor x, w, targets, mask, loss, scale, dx, dweight;
  Weight weight;
};

// Loss, dlogits (unrounded) and how far each may be off before rounding, from double.
struct Expected {
  Expected(const Head& head, bool masked) {
    const auto m = static_cast<size_t>(head.m);
    const auto c = static_cast<size_t>(head.c);
    const auto v = static_cast<size_t>(head.v);
    const Vector wt = Transpose(Values(head.w), v, c);
    const Vector logits = Product(Values(head.x), wt, m, v, c);
    const Vector magnitude = Product(Absolute(Values(head.x)), Absolute(wt), m, v, c);
    const auto scale = static_cast<double>(head.scale.data<float>()[0]);
    for (size_t r = 0; r < m; ++r) {
      const bool counts = !masked || head.mask.data<uint8_t>()[r] != 0;
      const auto begin = static_cast<ptrdiff_t>(r * v);
      const auto end = static_cast<ptrdiff_t>((r + 1) * v);
      const Vector row(logits.begin() + begin, logits.begin() + end);
      const auto target = static_cast<size_t>(head.targets.data<int32_t>()[r]);
      // Each logit is off by at most (C + 2) u sum|x w|; the sum of exponentials by that, 8 u of
      // each exp, and 70 additions in a row.
      const double logit_error =
          static_cast<double>(c + 2) * kU32 *
          *std::max_element(magnitude.begin() + begin, magnitude.begin() + end);
      const double sum_error = logit_error + 80.0 * kU32;
      Vector gradient = CrossEntropyGradient(row, target);
      for (size_t j = 0; j < v; ++j) {
        const double probability = gradient[j] + (j == target ? 1.0 : 0.0);
        const double error = probability * (logit_error + sum_error + 12.0 * kU32) +
                             2.0 * kU32 * std::abs(gradient[j]);
        dlogits.push_back(counts ? scale * gradient[j] : 0.0);
        const double unrounded = counts ? scale * error : 0.0;
        errors.push_back(unrounded + (counts ? RoundingError(head.x.view().dtype(),
                                                             std::abs(dlogits.back()) + unrounded)
                                             : 0.0));
      }
      loss += counts ? CrossEntropy(row, target) : 0.0;
      loss_error += counts ? logit_error + sum_error : 0.0;
    }
  }
  Vector dlogits, errors;
  double loss = 0.0;
  double loss_error = 1e-12;
};

class LmHeadTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, LmHeadTest, ::testing::ValuesIn(testing::kComputeDTypes),
                         testing::DTypeParamName);

void CheckLossAndGradients(Head& head, bool masked, GradMode mode, int num_parts = 1) {
  const auto m = static_cast<size_t>(head.m);
  const auto c = static_cast<size_t>(head.c);
  const auto v = static_cast<size_t>(head.v);
  const bool adds = mode == GradMode::kAccumulate;
  const Expected expected(head, masked);
  const double loss = expected.loss + (adds ? Values(head.loss)[0] : 0.0);
  const Vector before = adds ? Values(head.dweight) : Vector(v * c);
  if (num_parts == 1) {
    head.Run(2, masked, mode);
  } else {
    head.RunInParts(num_parts, masked, mode);
  }
  EXPECT_NEAR(Values(head.loss)[0], loss, expected.loss_error);

  const Vector x = Values(head.x);
  const Vector w = Values(head.w);
  const Vector dx = Product(expected.dlogits, w, m, c, v);
  const Vector dx_error = Product(expected.errors, Absolute(w), m, c, v);
  const Vector dx_magnitude = Product(Absolute(expected.dlogits), Absolute(w), m, c, v);
  ExpectWithin(
      head.dx, dx,
      [&](size_t i) {
        const double error =
            dx_error[i] * 1.01 + static_cast<double>(v + 2) * kU32 * dx_magnitude[i];
        // Each part's share of the sum is rounded on its own, the sum once more.
        const double shares = num_parts == 1 ? 0.0 : dx_magnitude[i];
        return error +
               num_parts * RoundingError(head.x.view().dtype(), std::abs(dx[i]) + shares + error);
      },
      "dx");

  const Vector dlogits_t = Transpose(expected.dlogits, m, v);
  Vector dweight = Product(dlogits_t, x, v, c, m);
  const Vector dw_error = Product(Transpose(expected.errors, m, v), Absolute(x), v, c, m);
  const Vector dw_magnitude = Product(Absolute(dlogits_t), Absolute(x), v, c, m);
  for (size_t i = 0; i < dweight.size(); ++i) dweight[i] += before[i];
  ExpectWithin(
      head.dweight, dweight,
      [&](size_t i) {
        return dw_error[i] * 1.01 + 1e-40 +
               static_cast<double>(m + 3) * kU32 * (dw_magnitude[i] + std::abs(before[i]));
      },
      "dweight");
}

TEST_P(LmHeadTest, MatchesDouble) {
  struct Size {
    int64_t m, c, v;
  };
  for (const Size& size : {Size{1, 1, 2}, {1, 3, 1}, {7, 5, 16}, {5, 17, 33}, {40, 24, 515}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", size.m, size.c, size.v));
    for (const bool masked : {false, true}) {
      for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
        Head head(GetParam(), size.m, size.c, size.v);
        CheckLossAndGradients(head, masked, mode);
      }
    }
  }
}

TEST_P(LmHeadTest, PartsOfTheVocabularyMatchDouble) {
  for (const int num_parts : {2, 4}) {
    for (const bool masked : {false, true}) {
      Head head(GetParam(), 7, 5, 52);
      CheckLossAndGradients(head, masked, GradMode::kOverwrite, num_parts);
    }
  }
}

// 270000 columns make chunks of 32 rows (64 MiB): 33 rows take two.
TEST_P(LmHeadTest, ManyChunksMatchDouble) {
  Head head(GetParam(), 33, 2, 270000);
  CheckLossAndGradients(head, true, GradMode::kOverwrite);
}

TEST_P(LmHeadTest, LossOnlyEqualsLossWithGradients) {
  Head head(GetParam(), 50, 16, 300);
  head.Run(2, true, GradMode::kOverwrite, false);
  const double loss = Values(head.loss)[0];
  head.Run(2, true, GradMode::kOverwrite);
  EXPECT_EQ(Values(head.loss)[0], loss);
}

TEST_P(LmHeadTest, NoRows) {
  Head head(GetParam(), 0, 4, 9);
  head.Run(2, false, GradMode::kAccumulate);
  EXPECT_EQ(Values(head.loss)[0], 0.25);
  EXPECT_NE(Values(head.dweight), Vector(36));
  head.Run(2, false, GradMode::kOverwrite);
  EXPECT_EQ(Values(head.loss)[0], 0.0);
  EXPECT_EQ(Values(head.dweight), Vector(36));
}

// The vocabulary of the presets: chunks of 320 rows.
TEST_P(LmHeadTest, SameBitsForAnyNumberOfThreads) {
  Head head(GetParam(), 330, 16, 50304);
  head.Run(1, true, GradMode::kOverwrite);
  const OwnedTensor loss = Copy(head.loss);
  const OwnedTensor dx = Copy(head.dx);
  const OwnedTensor dweight = Copy(head.dweight);
  for (const int num_threads : {2, 3, 8}) {
    head.Run(num_threads, true, GradMode::kOverwrite);
    EXPECT_TRUE(SameBits(head.loss, loss)) << num_threads;
    EXPECT_TRUE(SameBits(head.dx, dx)) << num_threads;
    EXPECT_TRUE(SameBits(head.dweight, dweight)) << num_threads;
  }
}

TEST_P(LmHeadTest, LogitsMatchDouble) {
  Head head(GetParam(), 9, 20, 77);
  const OwnedTensor logits(DType::kFloat32, {9, 77});
  TestContext context = head.MakeContext(2);
  LmHeadLogits(context, {.x = head.x, .weight = head.weight, .logits = logits});
  const Vector wt = Transpose(Values(head.w), 77, 20);
  const Vector magnitude = Product(Absolute(Values(head.x)), Absolute(wt), 9, 77, 20);
  ExpectWithin(
      logits, Product(Values(head.x), wt, 9, 77, 20),
      [&](size_t i) { return 22.0 * kU32 * magnitude[i] + 1e-40; }, "logits");
}

TEST(LmHeadLarge, LogitsFarApartStayFinite) {
  Head head(DType::kFloat32, 2, 1, 3);
  for (int64_t i = 0; i < 3; ++i) head.w.data<float>()[i] = static_cast<float>(i) * 5e3f;
  for (int64_t i = 0; i < 2; ++i) head.x.data<float>()[i] = 1.0f;
  head.targets.data<int32_t>()[0] = 0;
  head.targets.data<int32_t>()[1] = 2;
  head.Run(1, false, GradMode::kOverwrite);
  EXPECT_EQ(Values(head.loss)[0], 1e4);
  EXPECT_TRUE(std::isfinite(Values(head.dx)[0]));
}

TEST(LmHeadLarge, NaNLogitsMakeTheLossNaN) {
  Head head(DType::kFloat32, 3, 2, 40);
  head.x.data<float>()[2] = std::numeric_limits<float>::quiet_NaN();
  head.Run(1, false, GradMode::kOverwrite);
  EXPECT_TRUE(std::isnan(Values(head.loss)[0]));
}

TEST(LmHeadChecks, TargetsOutsideTheVocabularyAreRefused) {
  Head head(DType::kFloat32, 3, 2, 40);
  head.targets.data<int32_t>()[1] = 40;
  EXPECT_THROW(head.Run(1, false, GradMode::kOverwrite), InternalError);
}

TEST(CrossEntropyOracle, GradientIsTheDerivative) {
  const Vector logits = {0.3, -1.2, 2.0, 0.0};
  const Vector gradient = CrossEntropyGradient(logits, 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    Vector up = logits;
    Vector down = logits;
    up[i] += 1e-5;
    down[i] -= 1e-5;
    EXPECT_NEAR(gradient[i], (CrossEntropy(up, 1) - CrossEntropy(down, 1)) / 2e-5, 1e-9);
  }
}

}  // namespace
}  // namespace sepia::kernels
