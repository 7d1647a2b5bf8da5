#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"

namespace sepia::kernels {
namespace {

using testing::Copy;
using testing::ExpectWithin;
using testing::RandomTensor;
using testing::RandomTokens;
using testing::SameBits;
using testing::TestContext;
using testing::Values;

class EmbeddingTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, EmbeddingTest, ::testing::ValuesIn(testing::kComputeDTypes),
                         testing::DTypeParamName);

TEST_P(EmbeddingTest, ForwardCopiesRows) {
  const OwnedTensor tokens = RandomTokens({3, 37}, 11, 1);
  const OwnedTensor table = RandomTensor(GetParam(), {11, 7}, 2);
  const OwnedTensor y(GetParam(), {3, 37, 7});
  TestContext context(2);
  EmbeddingForward(context, {.tokens = tokens, .table = table, .y = y});
  for (int64_t place = 0; place < 3 * 37; ++place) {
    const TensorView row = y.view().Reshaped({3 * 37, 7}).Rows(place, 1);
    EXPECT_TRUE(SameBits(row, table.view().Rows(tokens.data<int32_t>()[place], 1))) << place;
  }
}

// 150 tokens of a vocabulary where some are frequent and some absent.
TEST_P(EmbeddingTest, BackwardSumsPlacesInOrder) {
  constexpr int64_t kVocab = 131;
  constexpr int64_t kWidth = 515;
  OwnedTensor tokens = RandomTokens({2, 75}, 40, 1);
  tokens.data<int32_t>()[149] = kVocab - 1;
  const OwnedTensor dy = RandomTensor(GetParam(), {2, 75, kWidth}, 2);
  for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
    const OwnedTensor dtable = RandomTensor(DType::kFloat32, {kVocab, kWidth}, 3);
    // In order of place, in fp32: the contract fixes every bit.
    std::vector<float> expected(kVocab * kWidth);
    if (mode == GradMode::kAccumulate) {
      const auto before = dtable.view().span<float>();
      expected.assign(before.begin(), before.end());
    }
    const std::vector<double> values = Values(dy);
    for (size_t place = 0; place < 150; ++place) {
      const auto token = static_cast<size_t>(tokens.data<int32_t>()[place]);
      for (size_t i = 0; i < kWidth; ++i) {
        expected[token * kWidth + i] += static_cast<float>(values[place * kWidth + i]);
      }
    }
    TestContext context(2, EmbeddingScratchBytes(150, kVocab, testing::kTestDevice));
    EmbeddingBackward(context, {.tokens = tokens, .dy = dy, .dtable = dtable, .grad_mode = mode});
    EXPECT_TRUE(SameBits(dtable, TensorView::Of(std::span(expected), {kVocab, kWidth})));
  }
}

TEST_P(EmbeddingTest, SameBitsForAnyNumberOfThreads) {
  const OwnedTensor tokens = RandomTokens({4, 200}, 300, 1);
  const OwnedTensor dy = RandomTensor(GetParam(), {4, 200, 33}, 2);
  const OwnedTensor dtable(DType::kFloat32, {300, 33});
  const auto run = [&](int num_threads) {
    TestContext context(num_threads, EmbeddingScratchBytes(800, 300, testing::kTestDevice));
    EmbeddingBackward(
        context, {.tokens = tokens, .dy = dy, .dtable = dtable, .grad_mode = GradMode::kOverwrite});
  };
  run(1);
  const OwnedTensor expected = Copy(dtable);
  for (const int num_threads : testing::kThreadCounts) {
    run(num_threads);
    EXPECT_TRUE(SameBits(dtable, expected)) << num_threads;
  }
}

TEST_P(EmbeddingTest, NoTokens) {
  const OwnedTensor tokens(DType::kInt32, {0, 8});
  const OwnedTensor empty(GetParam(), {0, 8, 3});
  const OwnedTensor dtable = RandomTensor(DType::kFloat32, {5, 3}, 1);
  TestContext context(2, EmbeddingScratchBytes(0, 5, testing::kTestDevice));
  EmbeddingForward(context,
                   {.tokens = tokens, .table = RandomTensor(GetParam(), {5, 3}, 2), .y = empty});
  EmbeddingBackward(
      context,
      {.tokens = tokens, .dy = empty, .dtable = dtable, .grad_mode = GradMode::kOverwrite});
  EXPECT_EQ(Values(dtable), std::vector<double>(15));
}

TEST(EmbeddingChecks, TokensOutsideTheVocabularyAreRefused) {
  const OwnedTensor table = RandomTensor(DType::kFloat32, {5, 3}, 1);
  const OwnedTensor y(DType::kFloat32, {1, 1, 3});
  TestContext context(1);
  for (const int32_t token : {-1, 5}) {
    OwnedTensor tokens(DType::kInt32, {1, 1});
    tokens.data<int32_t>()[0] = token;
    EXPECT_THROW(EmbeddingForward(context, {.tokens = tokens, .table = table, .y = y}),
                 InternalError);
  }
}

// Ranks that hold parts of the table: their rows add up, their gradients lie one below the other.
TEST_P(EmbeddingTest, PartsOfTheVocabularyMakeUpTheWhole) {
  constexpr int64_t kRows = 4;
  constexpr int kParts = 3;
  const OwnedTensor tokens = RandomTokens({2, 30}, kRows * kParts, 1);
  const OwnedTensor table = RandomTensor(GetParam(), {kRows * kParts, 5}, 2);
  const OwnedTensor dy = RandomTensor(GetParam(), {2, 30, 5}, 3);
  const OwnedTensor whole(GetParam(), {2, 30, 5});
  const OwnedTensor part_y(GetParam(), {2, 30, 5});
  const OwnedTensor dwhole(DType::kFloat32, {kRows * kParts, 5});
  const OwnedTensor dparts(DType::kFloat32, {kRows * kParts, 5});
  TestContext context(2, EmbeddingScratchBytes(60, kRows * kParts, testing::kTestDevice));
  EmbeddingForward(context, {.tokens = tokens, .table = table, .y = whole});
  EmbeddingBackward(
      context, {.tokens = tokens, .dy = dy, .dtable = dwhole, .grad_mode = GradMode::kOverwrite});
  std::vector<double> sum(2 * 30 * 5);
  for (int part = 0; part < kParts; ++part) {
    const VocabularyPart vocabulary{part, kParts};
    EmbeddingForward(context, {.tokens = tokens,
                               .table = table.view().Rows(part * kRows, kRows),
                               .y = part_y,
                               .vocabulary = vocabulary});
    const std::vector<double> values = Values(part_y);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
    EmbeddingBackward(context, {.tokens = tokens,
                                .dy = dy,
                                .dtable = dparts.view().Rows(part * kRows, kRows),
                                .grad_mode = GradMode::kOverwrite,
                                .vocabulary = vocabulary});
  }
  EXPECT_EQ(sum, Values(whole));
  EXPECT_TRUE(SameBits(dparts, dwhole));
}

}  // namespace
}  // namespace sepia::kernels
