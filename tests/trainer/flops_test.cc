#include "trainer/flops.h"

#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "base/attention_index.h"
#include "trainer/config.h"

namespace sepia::trainer {
namespace {

model::ModelConfig Model(const std::vector<std::string>& overrides) {
  return LoadConfigText("model { preset: 'pythia-160m' }", "c", overrides, {.for_training = false})
      .settings.model;
}

// Visible pairs by the definition: j <= i and (j far-visible or i - j < window).
int64_t CountPairs(const std::vector<int32_t>& tokens, const model::LayerAttention& layer,
                   const std::vector<int32_t>& separators) {
  int64_t pairs = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (size_t j = 0; j <= i; ++j) {
      bool far = static_cast<int64_t>(j) < layer.num_initial;
      if (layer.kind == AttentionKind::kSep) {
        for (const int32_t id : separators) far = far || tokens[j] == id;
      }
      if (layer.kind == AttentionKind::kFixedStride) {
        far = far || static_cast<int32_t>(j) % layer.stride == 0;
      }
      if (layer.kind == AttentionKind::kFull) far = true;
      pairs += far || static_cast<int64_t>(i - j) < layer.window ? 1 : 0;
    }
  }
  return pairs;
}

TEST(Flops, PaperFormulaGivesThePublishedCoefficients) {
  const model::ModelConfig model = Model({});
  // SepLLM, pythia-160m at T = 2048: 69.3 + 30.7 Attn% / 200, printed with one decimal.
  EXPECT_NEAR(PaperFlopsPercent(model, 2048, 0), 69.3, 0.05);
  EXPECT_NEAR(PaperFlopsPercent(model, 2048, 1) - PaperFlopsPercent(model, 2048, 0), 30.7 / 2,
              0.05);
}

TEST(Flops, CountsVisitedPairsOfEveryLayer) {
  const int64_t length = 37;
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 2 * length; ++i) tokens.push_back((i * 7 + i / 5) % 11);
  for (const std::vector<std::string>& overrides : std::vector<std::vector<std::string>>{
           {"model.attention={kind: SEP window: 5 separator_ids: [3, 4] full_layers: [0]}"},
           {"model.attention={kind: STREAMING window: 64}"},
           {"model.attention={kind: FIXED_STRIDE window: 1 num_initial: 0 stride: 4}"},
           {}}) {
    const model::ModelConfig model = Model(overrides);
    const model::AttentionPlan plan = model::MakeAttentionPlan(model);
    const AttentionIndexes indexes = BuildAttentionIndexes(tokens, 2, length, plan.specs);
    int64_t expected = 0;
    for (const model::LayerAttention& layer : model.attention) {
      for (int row = 0; row < 2; ++row) {
        const std::vector<int32_t> row_tokens(tokens.begin() + row * length,
                                              tokens.begin() + (row + 1) * length);
        expected += CountPairs(row_tokens, layer, model.separator_ids);
      }
    }
    const AttentionWork work = CountAttentionWork(plan, indexes, 2, length);
    EXPECT_EQ(work.visited_pairs, static_cast<double>(expected));
    EXPECT_EQ(work.causal_pairs, static_cast<double>(12 * 2 * (length * (length + 1) / 2)));
  }
}

TEST(Flops, ExpectationIsExactWhereNothingIsRandom) {
  const int64_t length = 50;
  const std::vector<int32_t> tokens(static_cast<size_t>(length), 1);
  for (const double density : {0.0, 1.0}) {
    const model::ModelConfig model =
        Model({"model.attention={kind: SEP window: 7 num_initial: 2 separator_ids: " +
               std::string(density == 1.0 ? "1" : "0") + "}"});
    int64_t expected = 0;
    for (const model::LayerAttention& layer : model.attention) {
      expected += CountPairs(tokens, layer, model.separator_ids);
    }
    EXPECT_EQ(ExpectedAttentionWork(model, length, density).visited_pairs,
              static_cast<double>(expected));
  }
}

TEST(Flops, TrainingIsThreeForwards) {
  const model::ModelConfig model = Model({});
  const AttentionWork work = ExpectedAttentionWork(model, 2048, 0);
  // 12 blocks of 12 C^2 and the head, two FLOPs each, plus 4 C for each of the visited pairs.
  const double per_token = 2.0 * (12 * 12 * 768.0 * 768.0 + 50304 * 768.0);
  const double attention = 4.0 * 768 * 12 * (2048.0 * 2049.0 / 2);
  EXPECT_DOUBLE_EQ(TrainingFlops(model, 2048, work), 3 * (per_token * 2048 + attention));
}

}  // namespace
}  // namespace sepia::trainer
