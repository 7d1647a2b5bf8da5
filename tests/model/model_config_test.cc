#include "model/model_config.h"

#include <map>

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "model/model_config.pb.h"
#include "model/parameters.h"

namespace sepia::model {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

config::ModelConfig Parse(const std::string& text) {
  config::ModelConfig proto;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &proto));
  return proto;
}

ModelConfig Resolve(const std::string& text) {
  std::vector<std::string> faults;
  ModelConfig config = ResolveModelConfig(Parse(text), &faults);
  EXPECT_THAT(faults, IsEmpty()) << text;
  return config;
}

std::vector<std::string> FaultsOf(const std::string& text) {
  std::vector<std::string> faults;
  ResolveModelConfig(Parse(text), &faults);
  return faults;
}

constexpr char kTiny[] = "vocab_size: 512 hidden_size: 64 num_layers: 4 num_heads: 4 ";

// Parameter counts, padded vocabularies and rotary dimensions as counted from the published
// models (EleutherAI/pythia README and configs).
TEST(ModelConfig, PresetsHaveThePublishedSizes) {
  struct Published {
    int64_t parameters, vocab, rotary_dim;
    double lr;
  };
  const std::map<std::string, Published> published = {
      {"pythia-14m", {14067712, 50304, 8, 1e-3}},
      {"pythia-31m", {30494720, 50304, 8, 1e-3}},
      {"pythia-70m", {70426624, 50304, 16, 1e-3}},
      {"pythia-160m", {162322944, 50304, 16, 6e-4}},
      {"pythia-410m", {405334016, 50304, 16, 3e-4}},
      {"pythia-1b", {1011781632, 50304, 64, 2.5e-4}},
      {"pythia-1.4b", {1414647808, 50304, 32, 2e-4}},
      {"pythia-2.8b", {2775208960, 50304, 20, 1.6e-4}},
      {"pythia-6.9b", {6857302016, 50432, 32, 1.2e-4}},
      {"pythia-12b", {11846072320, 50688, 32, 1.2e-4}},
      {"sepllm-160m", {162322944, 50304, 16, 6e-4}},
      {"sepllm-1.4b", {1414647808, 50304, 16, 2e-4}},
  };
  EXPECT_EQ(PresetNames().size(), published.size());
  for (const auto& [name, want] : published) {
    const ModelConfig config = Resolve("preset: \"" + name + "\"");
    EXPECT_EQ(config.num_parameters(), want.parameters) << name;
    EXPECT_EQ(ParameterTable(config).num_parameters(), want.parameters) << name;
    EXPECT_EQ(config.vocab_size, want.vocab) << name;
    EXPECT_EQ(config.rotary_dim(), want.rotary_dim) << name;
    EXPECT_EQ(PresetOptimizer(name).lr, want.lr) << name;
    EXPECT_NEAR(PresetOptimizer(name).min_lr, want.lr / 10, 1e-12) << name;
    const bool large = name == "pythia-6.9b" || name == "pythia-12b";
    EXPECT_EQ(config.init, large ? InitMethod::kNormal : InitMethod::kSmall) << name;
    EXPECT_EQ(config.output_init, large ? InitMethod::kScaledNormal : InitMethod::kWang) << name;
  }
}

TEST(ModelConfig, FieldsBesideThePresetOverrideIt) {
  const ModelConfig config =
      Resolve("preset: \"pythia-6.9b\" num_layers: 3 vocab_size: 1024 init: SMALL_INIT");
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.vocab_size, 1024);
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.init, InitMethod::kSmall);
  EXPECT_EQ(config.output_init, InitMethod::kScaledNormal);
  EXPECT_EQ(Resolve("preset: \"sepllm-160m\" attention { kind: FULL }").attention[0].kind,
            AttentionKind::kFull);
}

TEST(ModelConfig, HybridLayersCountFromBothEnds) {
  const ModelConfig config =
      Resolve(std::string(kTiny) + "attention { kind: SEP window: 8 full_layers: [0, -1] }");
  const LayerAttention full{.window = 2048};
  const LayerAttention sep{.kind = AttentionKind::kSep, .window = 8, .num_initial = 3, .stride = 0};
  EXPECT_THAT(config.attention, ElementsAre(full, sep, sep, full));
  EXPECT_THAT(config.separator_ids, ElementsAre(2, 13, 15, 27, 28, 32, 186, 187, 209));
}

TEST(ModelConfig, EveryLayerMayDiffer) {
  const ModelConfig config =
      Resolve(std::string(kTiny) +
              "attention { kind: FIXED_STRIDE stride: 5 window_per_layer: [4, 10, 16, 22] "
              "num_initial_per_layer: [0, 1, 1, 3] }");
  EXPECT_EQ(config.attention[2].window, 16);
  EXPECT_EQ(config.attention[2].num_initial, 1);
  EXPECT_EQ(config.attention[2].stride, 5);
}

// Layers share an index when only their windows differ.
TEST(AttentionPlan, IndexesAreSharedAndFullLayersNeedNone) {
  const AttentionPlan plan = MakeAttentionPlan(
      Resolve(std::string(kTiny) +
              "attention { kind: SEP full_layers: 1 window_per_layer: [4, 4, 9, 9] "
              "num_initial_per_layer: [3, 3, 3, 0] separator_ids: [5, 3, 5] }"));
  ASSERT_EQ(plan.specs.size(), 2u);
  EXPECT_EQ(plan.specs[0].num_initial, 3);
  EXPECT_EQ(plan.specs[1].num_initial, 0);
  EXPECT_THAT(plan.specs[0].separator_ids, ElementsAre(3, 5));
  EXPECT_EQ(plan.layers[0].index, 0);
  EXPECT_EQ(plan.layers[1].index, -1);
  EXPECT_EQ(plan.layers[1].window, 2048);
  EXPECT_EQ(plan.layers[2].index, 0);
  EXPECT_EQ(plan.layers[2].window, 9);
  EXPECT_EQ(plan.layers[3].index, 1);
}

TEST(ModelConfig, ResolvedConfigsSurviveTheirOwnText) {
  const char* attentions[] = {
      "",
      "attention { kind: SEP window: 8 full_layers: [0, -1] }",
      "attention { kind: STREAMING window: 16 num_initial: 4 }",
      "attention { kind: FIXED_STRIDE stride: 5 window_per_layer: [1, 2, 3, 4] full_layers: 2 }",
      "attention { kind: SEP full_layers: [0, 1, 2, 3] } tie_embeddings: true",
      "activation: ERF_GELU parallel_residual: false intermediate_size: 100 rotary_pct: 1"};
  for (const char* attention : attentions) {
    const ModelConfig config = Resolve(std::string(kTiny) + attention);
    config::ModelConfig proto;
    ModelConfigToProto(config, &proto);
    const ModelConfig again = Resolve(proto.ShortDebugString());
    config::ModelConfig proto_again;
    ModelConfigToProto(again, &proto_again);
    EXPECT_EQ(proto.ShortDebugString(), proto_again.ShortDebugString());
    EXPECT_EQ(config.attention, again.attention);
    EXPECT_EQ(config.intermediate_size, again.intermediate_size);
    EXPECT_EQ(config.parallel_residual, again.parallel_residual);
    EXPECT_EQ(config.tie_embeddings, again.tie_embeddings);
    EXPECT_EQ(config.activation, again.activation);
  }
}

TEST(ModelConfig, AllFaultsAreReportedAtOnce) {
  const std::vector<std::string> faults = FaultsOf(
      "hidden_size: 66 num_heads: 4 num_layers: 2 rotary_pct: 1.5 layer_norm_eps: 0 "
      "rotary_base: -1 max_positions: 0 "
      "attention { kind: FIXED_STRIDE window: 0 num_initial: -1 full_layers: [2, -3] }");
  for (const char* field :
       {"model.vocab_size: required", "model.num_heads: 4 does not divide",
        "model.rotary_pct:", "model.layer_norm_eps:", "model.rotary_base:", "model.max_positions:",
        "model.attention.stride:", "model.attention.window:", "model.attention.num_initial:",
        "model.attention.full_layers: 2", "model.attention.full_layers: -3"}) {
    EXPECT_THAT(faults, Contains(StartsWith(field)));
  }
}

TEST(ModelConfig, FaultsSayHowToMend) {
  EXPECT_THAT(FaultsOf("preset: \"pythia-160\""),
              Contains(AllOf(HasSubstr("did you mean \"pythia-160m\"?"), HasSubstr("pythia-12b"))));
  EXPECT_THAT(FaultsOf(std::string(kTiny) + "attention { kind: SEP separator_ids: 512 }"),
              Contains(HasSubstr("512 is not in the vocabulary of 512")));
  EXPECT_THAT(FaultsOf(std::string(kTiny) + "attention { kind: SEP separator_text: \".\" }"),
              Contains(HasSubstr("set data.tokenizer")));
  EXPECT_THAT(FaultsOf(std::string(kTiny) + "attention { kind: SEP window_per_layer: [1, 2] }"),
              Contains(HasSubstr("2 entries for 4 layers")));
  EXPECT_THAT(FaultsOf(std::string(kTiny) + "rotary_pct: 0.2"),
              Contains(HasSubstr("turns 3 dimensions")));
  EXPECT_THAT(FaultsOf("preset: \"pythia-14m\" hidden_size: 2147483647 num_layers: 0"),
              AllOf(Contains(StartsWith("model.hidden_size: 2147483647 is outside")),
                    Contains(StartsWith("model.num_layers: 0 is outside"))));
  EXPECT_THROW(PresetOptimizer("gpt-2"), UserError);
}

// A missing size is one fault, not the start of many.
TEST(ModelConfig, FaultsDoNotCascade) {
  EXPECT_EQ(FaultsOf("").size(), 4u);
  EXPECT_EQ(FaultsOf("vocab_size: 512 num_layers: 4 num_heads: 3").size(), 1u);
  EXPECT_EQ(FaultsOf("preset: \"pythia-14m\" num_layers: 0 attention { full_layers: 0 }").size(),
            1u);
}

}  // namespace
}  // namespace sepia::model
