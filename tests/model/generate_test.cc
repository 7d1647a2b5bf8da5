#include "model/generate.h"

#include <cmath>
#include <limits>
#include <map>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "device_under_test.h"
#include "model/decoder.h"
#include "tests/model/compare.h"
#include "tests/model/model_under_test.h"

namespace sepia::model {
namespace {

using sepia::testing::ConfigFromText;
using sepia::testing::MakeBatch;
using sepia::testing::ModelUnderTest;
using sepia::testing::RandomBatch;
using sepia::testing::RandomWeights;
using sepia::testing::RelativeError;

// On the host longer than one chunk of the decoder; emulating as much takes too long.
constexpr int64_t kPositions = sepia::testing::kTestDevice == Device::kCpu ? 300 : 70;

const std::string kShape = fmt::format(
    "vocab_size: 97 hidden_size: 32 num_layers: 3 num_heads: 4 rotary_pct: 0.5 max_positions: {} ",
    kPositions);

ModelUnderTest MakeModel(const ModelConfig& config, DType dtype) {
  ModelUnderTest model(config,
                       {.compute_dtype = dtype, .seq_length = kPositions, .gradients = false});
  model.SetWeights(RandomWeights(config, 3));
  return model;
}

// The logits of every position by one full forward pass.
std::vector<float> FullLogits(ModelUnderTest& model, const std::vector<int32_t>& tokens) {
  const auto length = static_cast<int64_t>(tokens.size());
  const Batch batch = MakeBatch(model.model().config(), tokens, tokens, 1, length);
  model.Forward(batch);
  return model.Logits(batch);
}

class DecoderTest : public ::testing::TestWithParam<const char*> {};

TEST_P(DecoderTest, GivesTheLogitsOfAFullForwardPass) {
  const ModelConfig config = ConfigFromText(kShape + GetParam());
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    ModelUnderTest model = MakeModel(config, dtype);
    const std::vector<int32_t> tokens = RandomBatch(config, 1, kPositions, 7).tokens;
    const std::vector<float> full = FullLogits(model, tokens);
    const auto expected = [&](int64_t position) {
      return std::span(full).subspan(static_cast<size_t>(position * 97), 97);
    };
    // Two computations of the same rounded values in different orders of sums: three layers of
    // parity_test.cc's ExpectedError (2 u sqrt(8 L)), on both sides.
    const double tolerance =
        2 * 2 * (dtype == DType::kFloat32 ? 8 * 0x1p-24 : 0x1p-8) * std::sqrt(8 * 3);
    Decoder decoder(model.ctx(), model.model(), model.mesh(), kPositions);
    for (const int64_t end : {int64_t{5}, int64_t{6}, int64_t{7}, kPositions - 20, kPositions - 19,
                              kPositions - 1, kPositions}) {
      const auto begin = static_cast<size_t>(decoder.length());
      const auto logits =
          decoder.Append(std::span(tokens).subspan(begin, static_cast<size_t>(end) - begin));
      EXPECT_LE(RelativeError(logits, expected(end - 1)), tolerance) << end;
    }
  }
}

// Greedy tokens equal the argmax of a full forward pass over prompt and answer at each position.
TEST_P(DecoderTest, GreedyTokensAreTheArgmaxOfAFullForwardPass) {
  const ModelConfig config = ConfigFromText(kShape + GetParam());
  ModelUnderTest model = MakeModel(config, DType::kFloat32);
  std::vector<int32_t> tokens = RandomBatch(config, 1, 20, 8).tokens;
  const std::vector<int32_t> answer = Generate(model.ctx(), model.model(), model.mesh(), tokens,
                                               {.max_tokens = 40, .sampling = {}});
  ASSERT_EQ(answer.size(), 40u);
  tokens.insert(tokens.end(), answer.begin(), answer.end());
  const std::vector<float> full = FullLogits(model, tokens);
  for (size_t i = 0; i < answer.size(); ++i) {
    const auto logits = std::span(full).subspan((20 + i - 1) * 97, 97);
    EXPECT_EQ(answer[i], SampleToken(logits, {}, 0)) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    EveryKind, DecoderTest,
    ::testing::Values(
        "", "attention { kind: SEP window: 6 separator_ids: [3, 7] }",
        "attention { kind: SEP window: 6 separator_ids: [3, 7] full_layers: [0, -1] }",
        "attention { kind: STREAMING window: 5 num_initial: 4 } parallel_residual: false",
        "attention { kind: FIXED_STRIDE window: 3 stride: 4 } tie_embeddings: true",
        "attention { kind: SEP separator_ids: 3 window_per_layer: [1, 9, 300] "
        "num_initial_per_layer: [0, 2, 1] }"));

TEST(Generate, RefusesToRunPastTheLastPosition) {
  const ModelConfig config = ConfigFromText(kShape);
  ModelUnderTest model = MakeModel(config, DType::kFloat32);
  const std::vector<int32_t> prompt(kPositions - 5, 1);
  EXPECT_EQ(
      Generate(model.ctx(), model.model(), model.mesh(), prompt, {.max_tokens = 5, .sampling = {}})
          .size(),
      5u);
  EXPECT_THROW(
      Generate(model.ctx(), model.model(), model.mesh(), prompt, {.max_tokens = 6, .sampling = {}}),
      UserError);
}

TEST(Generate, StopsAtTheStopToken) {
  const ModelConfig config = ConfigFromText(kShape);
  ModelUnderTest model = MakeModel(config, DType::kFloat32);
  const std::vector<int32_t> prompt = {1, 2, 3};
  const SamplingOptions sampling{.temperature = 1, .seed = 4};
  const std::vector<int32_t> all = Generate(model.ctx(), model.model(), model.mesh(), prompt,
                                            {.max_tokens = 30, .sampling = sampling});
  const std::vector<int32_t> stopped =
      Generate(model.ctx(), model.model(), model.mesh(), prompt,
               {.max_tokens = 30, .stop_token = all[10], .sampling = sampling});
  EXPECT_LE(stopped.size(), 10u);
  EXPECT_TRUE(std::equal(stopped.begin(), stopped.end(), all.begin()));
}

TEST(SampleToken, GreedyTakesTheLowestOfEquals) {
  EXPECT_EQ(SampleToken(std::vector<float>{0, 2, 1, 2}, {}, 0), 1);
  EXPECT_EQ(SampleToken(std::vector<float>{0, 2, 1, 3}, {.vocab_size = 3}, 0), 1);
}

std::map<int32_t, int> Histogram(const SamplingOptions& options, int count) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.1f), std::log(0.3f),
                                     std::log(0.1f)};
  std::map<int32_t, int> histogram;
  for (int i = 0; i < count; ++i)
    ++histogram[SampleToken(logits, options, static_cast<uint64_t>(i))];
  return histogram;
}

// Binomial counts: five deviations of sqrt(n p (1 - p)).
TEST(SampleToken, DrawsTheDistribution) {
  constexpr int kCount = 20000;
  const auto expect = [](std::map<int32_t, int> histogram, std::map<int32_t, double> shares) {
    for (const auto& [id, p] : shares) {
      EXPECT_NEAR(histogram[id], kCount * p, 5 * std::sqrt(kCount * p * (1 - p))) << id;
      histogram.erase(id);
    }
    EXPECT_TRUE(histogram.empty());
  };
  expect(Histogram({.temperature = 1}, kCount), {{0, 0.5}, {1, 0.1}, {2, 0.3}, {3, 0.1}});
  // Temperature 1/2 squares probabilities: 25 : 1 : 9 : 1.
  expect(Histogram({.temperature = 0.5}, kCount),
         {{0, 25.0 / 36}, {1, 1.0 / 36}, {2, 9.0 / 36}, {3, 1.0 / 36}});
  expect(Histogram({.temperature = 1, .top_k = 2}, kCount), {{0, 0.625}, {2, 0.375}});
  // Of equals, the lower id is kept.
  expect(Histogram({.temperature = 1, .top_k = 3}, kCount),
         {{0, 5.0 / 9}, {1, 1.0 / 9}, {2, 3.0 / 9}});
  expect(Histogram({.temperature = 1, .top_p = 0.45}, kCount), {{0, 1.0}});
  expect(Histogram({.temperature = 1, .top_p = 0.6}, kCount), {{0, 0.625}, {2, 0.375}});
  EXPECT_EQ(Histogram({.temperature = 1, .seed = 3}, 50),
            Histogram({.temperature = 1, .seed = 3}, 50));
  EXPECT_NE(Histogram({.temperature = 1, .seed = 3}, 50),
            Histogram({.temperature = 1, .seed = 4}, 50));
}

TEST(SampleToken, RefusesDamagedLogits) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const double temperature : {0.0, 1.0}) {
    EXPECT_THROW(SampleToken(std::vector<float>{0, kNan}, {.temperature = temperature}, 0),
                 UserError);
    EXPECT_THROW(SampleToken(std::vector<float>{kInf, 0}, {.temperature = temperature}, 0),
                 UserError);
    EXPECT_THROW(SampleToken(std::vector<float>{-kInf, -kInf}, {.temperature = temperature}, 0),
                 UserError);
  }
}

}  // namespace
}  // namespace sepia::model
