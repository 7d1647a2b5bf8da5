// Laws that hold for any weights: equal bits where nothing may change them, and attention rules
// that coincide.
#include "model/gpt_neox.h"

#include <cmath>
#include <cstring>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "tests/model/compare.h"
#include "tests/model/model_under_test.h"

namespace sepia::testing {
namespace {

constexpr char kShape[] =
    "vocab_size: 300 hidden_size: 64 num_layers: 3 num_heads: 4 max_positions: 128 ";
constexpr char kHybrid[] =
    "attention { kind: SEP window: 8 full_layers: 0 separator_ids: [3, 7, 11] } ";

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void ExpectSameBits(const ModelResults& a, const ModelResults& b) {
  EXPECT_TRUE(SameBits(a.logits, b.logits));
  EXPECT_EQ(a.loss, b.loss);
  for (const auto& [name, values] : a.grads)
    EXPECT_TRUE(SameBits(values, b.grads.at(name))) << name;
}

void ExpectZeroPadding(model::GptNeox& model) {
  const model::FlatLayout& layout = model.layout();
  const std::span<const float> grads = model.grads().span<float>();
  for (size_t i = 0; i < layout.begins.size(); ++i) {
    const int64_t end = i + 1 < layout.begins.size() ? layout.begins[i + 1] : layout.size;
    for (int64_t e = layout.begins[i] + layout.shapes[i].num_elements(); e < end; ++e) {
      ASSERT_EQ(grads[static_cast<size_t>(e)], 0) << "behind parameter " << i;
    }
  }
}

ModelResults RunModel(const model::ModelConfig& config, const Batch& batch,
                      model::ModelOptions options, int64_t spare_rows = 0,
                      int64_t spare_tokens = 0) {
  options.batch_size = batch.batch_size + spare_rows;
  options.seq_length = batch.seq_length + spare_tokens;
  ModelUnderTest model(config, options);
  model.SetWeights(RandomWeights(config, 1));
  return model.Run(batch, /*loss_scale=*/256);
}

TEST(GptNeox, TheNumberOfThreadsChangesNoBit) {
  const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid);
  const Batch batch = RandomBatch(config, 3, 67, 2);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    SCOPED_TRACE(DTypeName(dtype));
    const ModelResults one = RunModel(config, batch, {.compute_dtype = dtype});
    for (const int threads : {2, 3, 5, 8}) {
      SCOPED_TRACE(threads);
      ExpectSameBits(one,
                     RunModel(config, batch, {.compute_dtype = dtype, .num_threads = threads}));
    }
  }
}

TEST(GptNeox, RecomputationChangesNoBit) {
  for (const char* variant : {"", "parallel_residual: false", "tie_embeddings: true"}) {
    const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid + variant);
    const Batch batch = RandomBatch(config, 2, 40, 3);
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      SCOPED_TRACE(std::string(variant) + std::string(DTypeName(dtype)));
      ExpectSameBits(RunModel(config, batch, {.compute_dtype = dtype}),
                     RunModel(config, batch, {.compute_dtype = dtype, .recompute = true}));
    }
  }
}

// Gradients in memory of activations that backward has done with. The second shape has layers whose
// activations outgrow their gradients, so that the vector begins behind the first of them.
TEST(GptNeox, GradientsOverActivationsChangeNoBit) {
  struct Case {
    const char* variant;
    int64_t batch_size, seq_length;
  };
  for (const Case& c : {Case{"", 1, 8}, Case{"", 4, 100}, Case{"parallel_residual: false", 2, 60},
                        Case{"tie_embeddings: true", 2, 40}}) {
    const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid + c.variant);
    const Batch batch = RandomBatch(config, c.batch_size, c.seq_length, 3);
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (const bool recompute : {false, true}) {
        SCOPED_TRACE(fmt::format("{} {} x {} {} {}", c.variant, c.batch_size, c.seq_length,
                                 DTypeName(dtype), recompute));
        model::ModelOptions options{.compute_dtype = dtype, .recompute = recompute};
        const ModelResults kept = RunModel(config, batch, options);
        options.keep_gradients = false;
        ExpectSameBits(kept, RunModel(config, batch, options, /*spare_rows=*/1));
        ModelUnderTest model(config, {.compute_dtype = dtype,
                                      .batch_size = c.batch_size,
                                      .seq_length = c.seq_length,
                                      .recompute = recompute,
                                      .keep_gradients = false});
        model.SetWeights(RandomWeights(config, 1));
        model.Run(batch, /*loss_scale=*/256);
        ExpectSameBits(kept, model.Run(batch, /*loss_scale=*/256));  // in used memory
        ExpectZeroPadding(model.model());
      }
    }
  }
}

TEST(GptNeox, ABatchMayBeSmallerThanTheModelWasBuiltFor) {
  const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid);
  const Batch batch = RandomBatch(config, 2, 40, 3);
  ExpectSameBits(RunModel(config, batch, {}),
                 RunModel(config, batch, {}, /*spare_rows=*/1, /*spare_tokens=*/13));
}

TEST(GptNeox, InferenceComputesTheLogitsOfTraining) {
  for (const char* variant : {"", "parallel_residual: false"}) {
    const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid + variant);
    const Batch batch = RandomBatch(config, 2, 40, 3);
    const ModelResults training = RunModel(config, batch, {});
    ModelUnderTest model(config, {.batch_size = 2, .seq_length = 40, .gradients = false});
    model.SetWeights(RandomWeights(config, 1));
    model.Forward(batch);
    EXPECT_TRUE(SameBits(model.Logits(batch), training.logits));
    double loss_sum = 0;
    model.model().Loss(model.ctx(), batch, TensorView(&loss_sum, DType::kFloat64, {1}),
                       GradMode::kOverwrite);
    EXPECT_EQ(loss_sum / 80, training.loss);
  }
}

// A data rank that has no rows left takes part with zero gradients.
TEST(GptNeox, ABatchWithoutRowsHasZeroGradients) {
  const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid);
  ModelUnderTest model(config, {.batch_size = 2, .seq_length = 16});
  model.SetWeights(RandomWeights(config, 1));
  const Batch batch = RandomBatch(config, 2, 16, 3);
  const ModelResults before = model.Run(batch);
  const Batch none = MakeBatch(config, {}, {}, 0, 16);
  const auto backward = [&](GradMode mode) {
    double loss = 7;
    const float scale = 1;
    model.Forward(none);
    model.model().Backward(model.ctx(), none,
                           {.grad_scale = ConstTensorView(&scale, DType::kFloat32, {1}),
                            .loss_sum = TensorView(&loss, DType::kFloat64, {1}),
                            .loss_mode = mode,
                            .grad_mode = mode});
    return loss;
  };
  EXPECT_EQ(backward(GradMode::kAccumulate), 7);
  for (const auto& [name, values] : model.Gradients(1)) {
    EXPECT_TRUE(SameBits(values, before.grads.at(name))) << name;
  }
  EXPECT_EQ(backward(GradMode::kOverwrite), 0);
  for (const float value : model.model().grads().span<float>()) ASSERT_EQ(value, 0);
}

TEST(GptNeox, GradientsAreAnnouncedOnceAndBackToFront) {
  const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid);
  ModelUnderTest model(config, {.batch_size = 1, .seq_length = 16});
  model.SetWeights(RandomWeights(config, 1));
  const Batch batch = RandomBatch(config, 1, 16, 3);
  model.Forward(batch);
  double loss = 0;
  const float scale = 1;
  int expected_end = static_cast<int>(model.model().parameters().specs().size());
  model.model().Backward(model.ctx(), batch,
                         {.grad_scale = ConstTensorView(&scale, DType::kFloat32, {1}),
                          .loss_sum = TensorView(&loss, DType::kFloat64, {1}),
                          .loss_mode = GradMode::kOverwrite,
                          .grad_mode = GradMode::kOverwrite,
                          .gradients_ready = [&](int begin, int end) {
                            EXPECT_EQ(end, expected_end);
                            EXPECT_LT(begin, end);
                            expected_end = begin;
                          }});
  EXPECT_EQ(expected_end, 0);
}

// Padding between records reads as zero, and every gradient lies inside.
TEST(GptNeox, AllGradientsAreOneVector) {
  const model::ModelConfig config = ConfigFromText(
      "vocab_size: 33 hidden_size: 8 num_layers: 2 num_heads: 2 rotary_pct: 0.5 max_positions: 16");
  ModelUnderTest model(config, {.batch_size = 1, .seq_length = 16});
  model.SetWeights(RandomWeights(config, 1));
  const ModelResults results = model.Run(RandomBatch(config, 1, 16, 3));
  double of_parts = 0, of_all = 0;
  for (const auto& [name, values] : results.grads) {
    for (const float value : values) of_parts += std::abs(static_cast<double>(value));
  }
  for (const float value : model.model().grads().span<float>()) {
    of_all += std::abs(static_cast<double>(value));
  }
  // The same positive terms in another order.
  EXPECT_NEAR(of_all, of_parts, 1e-12 * of_parts);
}

// Rules that select the same keys give the same results, up to the order of sums.
TEST(AttentionRules, CoincideWhereTheySelectTheSameKeys) {
  const auto run = [](const std::string& attention) {
    const model::ModelConfig config =
        ConfigFromText(std::string(kShape) + "attention { " + attention + " }");
    const model::ModelConfig tokens_of =
        ConfigFromText(std::string(kShape) + "attention { kind: SEP separator_ids: [3, 7, 11] }");
    const Batch drawn = RandomBatch(tokens_of, 2, 60, 4);
    return RunModel(config, MakeBatch(config, drawn.tokens, drawn.targets, 2, 60), {});
  };
  const auto expect_close = [](const ModelResults& a, const ModelResults& b) {
    constexpr double kSumOrder = 1e-5;  // as kTolerance of gradient_test.cc
    EXPECT_LE(RelativeError(a.logits, b.logits), kSumOrder);
    for (const auto& [name, values] : a.grads) {
      if (name.ends_with("query_key_value.bias")) continue;  // its key part is rounding noise
      EXPECT_LE(RelativeError(values, b.grads.at(name)), kSumOrder) << name;
    }
  };
  std::string every_id;
  for (int id = 0; id < 300; ++id) every_id += " separator_ids: " + std::to_string(id);

  const ModelResults full = run("kind: FULL");
  expect_close(run("kind: SEP window: 60 separator_ids: 3"), full);
  expect_close(run("kind: SEP window: 4" + every_id), full);
  expect_close(run("kind: FIXED_STRIDE window: 4 stride: 1"), full);
  expect_close(run("kind: STREAMING window: 4 num_initial: 56"), full);
  expect_close(run("kind: SEP window: 4 separator_ids: 299"),
               run("kind: STREAMING window: 4"));  // 299 is drawn for no token
  EXPECT_GT(RelativeError(run("kind: SEP window: 4 separator_ids: 3").logits, full.logits), 1e-3);
}

// With NeoX's initialisers the logits of a fresh model are small: the loss starts at ln V.
TEST(GptNeox, AFreshModelKnowsNothing) {
  const model::ModelConfig config = ConfigFromText(std::string(kShape) + kHybrid);
  const ModelResults results = RunModel(config, RandomBatch(config, 2, 64, 9), {});
  EXPECT_NEAR(results.loss, std::log(300.0), 0.35);
}

TEST(MemoryPlan, RecomputationAndInferenceNeedLess) {
  const model::ModelConfig config = ConfigFromText("preset: \"pythia-160m\"");
  model::ModelOptions options{
      .compute_dtype = DType::kBFloat16, .batch_size = 2, .seq_length = 2048};
  const model::MemoryPlan plan = model::GptNeox::Plan(config, options);
  EXPECT_NEAR(static_cast<double>(plan.params), 2.0 * 162322944, 1e5);
  EXPECT_NEAR(static_cast<double>(plan.grads), 4.0 * 162322944, 1e5);
  options.recompute = true;
  EXPECT_LT(4 * model::GptNeox::Plan(config, options).activations, plan.activations);
  options.gradients = false;
  const model::MemoryPlan inference = model::GptNeox::Plan(config, options);
  EXPECT_EQ(inference.grads, 0);
  EXPECT_LT(8 * inference.activations, plan.activations);
}

// All gradients but the head's and the last layer's can take the place of activations.
TEST(MemoryPlan, GradientsThatAreNotKeptLieOverActivations) {
  const model::ModelConfig config = ConfigFromText("preset: \"pythia-160m\"");
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    model::ModelOptions options{.compute_dtype = dtype, .batch_size = 1, .seq_length = 2048};
    const model::MemoryPlan kept = model::GptNeox::Plan(config, options);
    options.keep_gradients = false;
    const model::MemoryPlan shared = model::GptNeox::Plan(config, options);
    EXPECT_EQ(shared.grads, kept.grads);
    EXPECT_EQ(shared.params, kept.params);
    const auto saved = static_cast<double>(kept.activations - shared.activations);
    // Embedding and 11 layers, or all that 12 layers save (11 values of C a token and a bit).
    const double lower_gradients = 4.0 * (50304.0 * 768 + 11 * 7087872.0);
    const double saved_by_layers = static_cast<double>(DTypeSize(dtype)) * 2048 * 768 * 11 * 12;
    EXPECT_GT(saved, 0.99 * std::min(lower_gradients, saved_by_layers));
    EXPECT_LT(saved, 1.02 * lower_gradients);  // and the final LayerNorm's input
  }
}

}  // namespace
}  // namespace sepia::testing
