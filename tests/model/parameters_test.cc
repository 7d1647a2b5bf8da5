#include "model/parameters.h"

#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "base/buffer.h"

namespace sepia::model {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 640;
  config.hidden_size = 96;
  config.num_layers = 3;
  config.num_heads = 4;
  config.intermediate_size = 384;
  config.attention.assign(3, {.window = 2048});
  return config;
}

const ParamSpec& Find(const ParameterTable& table, const std::string& hf_name) {
  for (const ParamSpec& spec : table.specs()) {
    if (spec.hf_name == hf_name) return spec;
  }
  throw InternalError("no parameter " + hf_name);
}

TEST(ParameterTable, RolesFindTheirParameters) {
  const ParameterTable table(SmallConfig());
  const auto hf = [&](int i) { return table.specs()[static_cast<size_t>(i)].hf_name; };
  EXPECT_EQ(hf(table.embedding()), "gpt_neox.embed_in.weight");
  EXPECT_EQ(hf(table.block(2, BlockParam::kLn1Beta)), "gpt_neox.layers.2.input_layernorm.bias");
  EXPECT_EQ(hf(table.block(1, BlockParam::kQkvWeight)),
            "gpt_neox.layers.1.attention.query_key_value.weight");
  EXPECT_EQ(hf(table.block(0, BlockParam::kDenseBias)), "gpt_neox.layers.0.attention.dense.bias");
  EXPECT_EQ(hf(table.block(0, BlockParam::kLn2Gamma)),
            "gpt_neox.layers.0.post_attention_layernorm.weight");
  EXPECT_EQ(hf(table.block(0, BlockParam::kUpWeight)),
            "gpt_neox.layers.0.mlp.dense_h_to_4h.weight");
  EXPECT_EQ(hf(table.block(2, BlockParam::kDownBias)), "gpt_neox.layers.2.mlp.dense_4h_to_h.bias");
  EXPECT_EQ(hf(table.final_gamma()), "gpt_neox.final_layer_norm.weight");
  EXPECT_EQ(hf(table.final_beta()), "gpt_neox.final_layer_norm.bias");
  EXPECT_EQ(hf(table.head()), "embed_out.weight");
  EXPECT_EQ(table.specs().size(), 4u + 12u * 3u);
  std::set<std::string> names;
  for (const ParamSpec& spec : table.specs()) {
    names.insert(spec.name);
    names.insert(spec.hf_name);
  }
  EXPECT_EQ(names.size(), 2 * table.specs().size());
}

TEST(ParameterTable, ATiedHeadIsTheEmbedding) {
  ModelConfig config = SmallConfig();
  config.tie_embeddings = true;
  const ParameterTable table(config);
  EXPECT_EQ(table.head(), table.embedding());
  EXPECT_EQ(table.specs().size(), 3u + 12u * 3u);
  EXPECT_EQ(table.num_parameters(), config.num_parameters());
}

// Every matrix decays and no vector does (NeoX model/utils.py).
TEST(ParameterTable, OnlyMatricesDecay) {
  const ParameterTable table(SmallConfig());
  for (const ParamSpec& spec : table.specs()) {
    EXPECT_EQ(spec.weight_decay, spec.shape.rank() == 2) << spec.name;
  }
}

TEST(ParameterTable, PlacementsCutOutputFeaturesInputFeaturesOrTheVocabulary) {
  const ParameterTable table(SmallConfig());
  const std::string layer = "gpt_neox.layers.1.";
  EXPECT_EQ(Find(table, "gpt_neox.embed_in.weight").placement, Placement::kVocab);
  EXPECT_EQ(Find(table, "embed_out.weight").placement, Placement::kVocab);
  EXPECT_EQ(Find(table, layer + "attention.query_key_value.bias").placement, Placement::kColumn);
  EXPECT_EQ(Find(table, layer + "mlp.dense_h_to_4h.weight").placement, Placement::kColumn);
  EXPECT_EQ(Find(table, layer + "attention.dense.weight").placement, Placement::kRow);
  EXPECT_EQ(Find(table, layer + "mlp.dense_4h_to_h.weight").placement, Placement::kRow);
  EXPECT_EQ(Find(table, layer + "mlp.dense_4h_to_h.bias").placement, Placement::kReplicated);
  EXPECT_EQ(Find(table, layer + "input_layernorm.weight").placement, Placement::kReplicated);
}

// Standard deviations of NeoX's init_functions.py.
TEST(InitializeParameter, FollowsTheNamedInitialiser) {
  ModelConfig config = SmallConfig();
  const auto deviation = [&](const char* name) {
    return Find(ParameterTable(config), name).init.stddev;
  };
  EXPECT_DOUBLE_EQ(deviation("embed_out.weight"), std::sqrt(0.4 / 96));
  EXPECT_DOUBLE_EQ(deviation("gpt_neox.layers.0.attention.dense.weight"), 2 / (3 * std::sqrt(96)));
  config.init = InitMethod::kNormal;
  config.output_init = InitMethod::kScaledNormal;
  EXPECT_DOUBLE_EQ(deviation("gpt_neox.layers.0.mlp.dense_h_to_4h.weight"), 0.02);
  EXPECT_DOUBLE_EQ(deviation("gpt_neox.layers.2.mlp.dense_4h_to_h.weight"), 0.02 / std::sqrt(6));
}

TEST(InitializeParameter, DrawsTheNormalDistribution) {
  const ParameterTable table(SmallConfig());
  const ParamSpec& spec = Find(table, "gpt_neox.embed_in.weight");
  const OwnedTensor values(DType::kFloat32, spec.shape);
  InitializeParameter(spec, 1234, 2, values);
  const auto n = static_cast<double>(spec.shape.num_elements());
  double sum = 0, squares = 0, fourth = 0;
  for (const float value : values.view().span<float>()) {
    const double z = value / spec.init.stddev;
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
  }
  // Moments of n standard normals: mean 0 +- 1/sqrt(n), variance 1 +- sqrt(2/n), fourth moment
  // 3 +- sqrt(96/n); five deviations.
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n, 3, 5 * std::sqrt(96 / n));
}

TEST(InitializeParameter, IsAFunctionOfSeedAndNameOnly) {
  const ParameterTable table(SmallConfig());
  const auto draw = [](const ParamSpec& spec, uint64_t seed, int threads) {
    std::vector<float> values(static_cast<size_t>(spec.shape.num_elements()), -1.0f);
    InitializeParameter(spec, seed, threads, TensorView::Of(std::span(values), spec.shape));
    return values;
  };
  const ParamSpec& embedding = Find(table, "gpt_neox.embed_in.weight");
  const ParamSpec& head = Find(table, "embed_out.weight");
  const std::vector<float> reference = draw(embedding, 1234, 1);
  for (const int threads : {2, 3, 5, 8}) EXPECT_EQ(draw(embedding, 1234, threads), reference);
  EXPECT_NE(draw(embedding, 1235, 1), reference);
  EXPECT_NE(draw(head, 1234, 1), reference);
  EXPECT_EQ(draw(Find(table, "gpt_neox.layers.0.mlp.dense_h_to_4h.bias"), 1234, 2)[5], 0.0f);
  EXPECT_EQ(draw(Find(table, "gpt_neox.layers.0.input_layernorm.weight"), 1234, 2)[5], 1.0f);
}

}  // namespace
}  // namespace sepia::model
