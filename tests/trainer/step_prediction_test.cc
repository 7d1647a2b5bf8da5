// Predictions on hardware of round numbers, and the search over layouts.
#include "trainer/step_prediction.h"

#include <algorithm>
#include <set>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "trainer/config.h"
#include "trainer/flops.h"
#include "trainer/layout_search.h"
#include "trainer/step_work.h"

namespace sepia::trainer {
namespace {

using ::testing::HasSubstr;

TrainSettings Settings(const std::vector<std::string>& overrides = {}) {
  std::vector<std::string> all = {"model.preset='pythia-70m'", "batch.global=8", "batch.micro=1",
                                  "data.sequence_length=512", "threads=1"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return LoadConfigText("", "c", all, {.for_training = false}).settings;
}

Hardware RoundNumbers() {
  return {.name = "round",
          .linear_flops = 1e12,
          .head_flops = 5e11,
          .attention_flops = 1e11,
          .elementwise_bytes = 1e10,
          .optimizer_bytes = 2e10,
          .peak_flops = 2e12,
          .memory_bytes = int64_t{1} << 40,
          .in_node = {.bytes_per_s = 1e9, .latency_s = 1e-6},
          .across_nodes = {.bytes_per_s = 1e8, .latency_s = 1e-4}};
}

// By hand: 70m has 6 blocks of 12 C^2 weights, C = 512, and a head of V C.
TEST(StepPrediction, OfOneRankIsWorkOverRates) {
  const TrainSettings s = Settings();
  const StepPrediction p = PredictStep(s, {}, RoundNumbers(), 0.1);
  const double tokens = 8 * 512;
  const double c = 512;
  EXPECT_NEAR(p.linear, 6 * tokens * 6 * 12 * c * c / 1e12, 1e-9);
  EXPECT_NEAR(p.head, 6 * tokens * 50304 * c / 5e11, 1e-9);
  // Dense: T (T + 1) / 2 pairs a row and layer; 4 D forward, 10 D backward, all heads together C.
  EXPECT_NEAR(p.attention, 6 * 8 * (512 * 513 / 2) * 14 * c / 1e11, 1e-9);
  // Columns of C that a row moves in a block: LayerNorms 9, residual 8, GeLU 6 of 4 C each.
  EXPECT_NEAR(p.elementwise, 6 * tokens * (9 + 8 + 6 * 4) * c * 4 / 1e10, 1e-9);
  EXPECT_EQ(p.exposed_communication, 0);
  EXPECT_EQ(p.data, 0);
  EXPECT_NEAR(p.tokens_per_s, tokens / p.step(), 1e-6);
  // Useful operations: no recomputation, attention's backward twice its forward.
  const double useful =
      6 * tokens * (6 * 12 * c * c + 50304 * c) + 12 * c * 6 * 8 * (512 * 513 / 2);
  EXPECT_NEAR(p.mfu, useful / (2e12 * p.step()), 1e-12);
}

TEST(StepPrediction, TensorRanksShareProductsAttentionAndMlp) {
  const StepWork one = WorkOfRank(Settings(), 1, 0.1);
  const StepWork two = WorkOfRank(Settings({"parallel.tensor=2"}), 1, 0.1);
  EXPECT_DOUBLE_EQ(two.linear.flops, one.linear.flops / 2);
  EXPECT_DOUBLE_EQ(two.head.flops, one.head.flops / 2);
  EXPECT_DOUBLE_EQ(two.attention.flops, one.attention.flops / 2);
  EXPECT_LT(two.elementwise.bytes, one.elementwise.bytes);  // LayerNorms are not shared
  EXPECT_GT(two.elementwise.bytes, one.elementwise.bytes / 2);
}

TEST(StepPrediction, RecomputationAddsAForwardPassOfAllBlocksButOne) {
  const StepWork once = WorkOfRank(Settings(), 1, 0.1);
  const StepWork again = WorkOfRank(Settings({"recompute=true"}), 1, 0.1);
  EXPECT_DOUBLE_EQ(again.linear.flops, once.linear.flops * (1 + 5.0 / 6 / 3));
  EXPECT_DOUBLE_EQ(again.attention.flops, once.attention.flops * (1 + 5.0 / 6 * 4 / 14));
  EXPECT_DOUBLE_EQ(again.head.flops, once.head.flops);
  const StepPrediction a = PredictStep(Settings(), {}, RoundNumbers(), 0.1);
  const StepPrediction b = PredictStep(Settings({"recompute=true"}), {}, RoundNumbers(), 0.1);
  EXPECT_LT(b.mfu, a.mfu);
}

// Direct exchange: of the n - 1 others that a rank sends to, those on its own node are near.
TEST(StepPrediction, SplitsDataTrafficByNodes) {
  const TrainSettings s = Settings();
  const Hardware hardware = RoundNumbers();
  const StepPrediction near = PredictStep(s, {.nodes = 1, .ranks_per_node = 8}, hardware, 0.1);
  EXPECT_EQ(near.bytes.data_across_nodes, 0);
  const StepPrediction far = PredictStep(s, {.nodes = 2, .ranks_per_node = 4}, hardware, 0.1);
  const double all = far.bytes.data_in_node + far.bytes.data_across_nodes;
  EXPECT_NEAR(all, near.bytes.data_in_node, 1);
  EXPECT_NEAR(far.bytes.data_across_nodes / all, 4.0 / 7, 1e-12);
  // Four ranks share the network of a node.
  EXPECT_GT(far.data_communication, 4 * far.bytes.data_across_nodes / 1e8);
  EXPECT_NEAR(far.data_communication, 4 * far.bytes.data_across_nodes / 1e8, 0.1);
  EXPECT_NEAR(near.data_communication, near.bytes.data_in_node / 1e9, 1e-3);
}

LayoutSearch Search(const TrainSettings& settings, const Cluster& cluster,
                    const Hardware& hardware) {
  return SearchLayouts(settings, cluster, hardware, 0.1);
}

TEST(LayoutSearch, TriesEveryLayoutOnceFastestFirst) {
  const LayoutSearch search = Search(Settings(), {.nodes = 1, .ranks_per_node = 4}, RoundNumbers());
  EXPECT_TRUE(search.too_large.empty());
  std::set<std::tuple<int, int64_t, int, bool, int64_t, bool>> seen;
  for (const LayoutPlan& plan : search.fitting) {
    const TrainSettings& s = plan.settings;
    EXPECT_EQ(s.parallel.tensor * plan.data_ranks, 4);
    EXPECT_EQ(8 % (s.batch.micro * plan.data_ranks), 0);
    EXPECT_EQ(plan.memory.total(), PlanMemory(s, plan.data_ranks).total());
    EXPECT_TRUE(seen.insert({s.parallel.tensor, plan.data_ranks, s.parallel.zero_stage,
                             s.parallel.sequence, s.batch.micro, s.recompute})
                    .second);
  }
  EXPECT_TRUE(std::is_sorted(search.fitting.begin(), search.fitting.end(),
                             [](const LayoutPlan& a, const LayoutPlan& b) {
                               return a.prediction.step() < b.prediction.step();
                             }));
  for (const int tensor : {1, 2, 4}) {
    EXPECT_TRUE(std::any_of(search.fitting.begin(), search.fitting.end(), [&](const auto& plan) {
      return plan.settings.parallel.tensor == tensor;
    }));
  }
}

TEST(LayoutSearch, SaysByHowMuchALayoutDoesNotFit) {
  Hardware hardware = RoundNumbers();
  const LayoutSearch all = Search(Settings(), {}, hardware);
  const auto smaller = [](const LayoutPlan& a, const LayoutPlan& b) {
    return a.memory.total() < b.memory.total();
  };
  const int64_t least =
      std::min_element(all.fitting.begin(), all.fitting.end(), smaller)->memory.total();
  hardware.reserved_bytes = 1000;
  hardware.memory_bytes = least + 1000;
  const LayoutSearch some = Search(Settings(), {}, hardware);
  EXPECT_EQ(some.fitting.size(), 1u);
  EXPECT_EQ(some.too_large.size(), all.fitting.size() - 1);
  for (const LayoutPlan& plan : some.too_large) {
    EXPECT_EQ(plan.excess_bytes, plan.memory.total() - least);
  }
  hardware.memory_bytes -= 1;
  const LayoutSearch none = Search(Settings(), {}, hardware);
  EXPECT_TRUE(none.fitting.empty());
  EXPECT_EQ(none.too_large.front().excess_bytes, 1);
}

TEST(LayoutSearch, SaysWhyALayoutIsRuledOut) {
  // 8 heads; groups of 6 and 12 would also cross nodes.
  const LayoutSearch search =
      Search(Settings({"batch.global=8"}), {.nodes = 2, .ranks_per_node = 6}, RoundNumbers());
  std::vector<std::string> reasons;
  for (const RefusedLayout& refused : search.refused) {
    reasons.push_back(refused.what + ": " + refused.why);
  }
  EXPECT_THAT(reasons, ::testing::ElementsAre(
                           HasSubstr("tensor 1 x data 12: batch.global 8 is not a multiple of 12"),
                           HasSubstr("tensor 2 x data 6: batch.global 8"),
                           HasSubstr("tensor 3: does not divide the 8 heads"),
                           HasSubstr("tensor 4: a tensor group would cross nodes of 6 ranks"),
                           HasSubstr("tensor 6: does not divide the 8 heads"),
                           HasSubstr("tensor 12: a tensor group would cross nodes of 6 ranks")));
  EXPECT_TRUE(search.fitting.empty());
}

TEST(Hardware, DataSheetsAreLabelled) {
  for (const char* name : {"a100", "h100"}) {
    const auto hardware = HardwareFromDataSheet(name, DType::kBFloat16);
    ASSERT_TRUE(hardware);
    EXPECT_FALSE(hardware->measured);
    EXPECT_GE(hardware->sources.size(), 3u);
    EXPECT_LT(hardware->linear_flops, hardware->peak_flops);
  }
  EXPECT_FALSE(HardwareFromDataSheet("b200", DType::kBFloat16));
}

}  // namespace
}  // namespace sepia::trainer
