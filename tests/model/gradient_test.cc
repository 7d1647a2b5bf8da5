// Variants that no published file covers (sequential residual, tied head, loss mask) against the
// reference model in double: the loss directly, every gradient by central differences.
#include <cmath>

#include <gtest/gtest.h>

#include "tests/model/compare.h"
#include "tests/model/model_under_test.h"
#include "tests/oracle/reference_model.h"

namespace sepia::testing {
namespace {

constexpr int64_t kRows = 2;
constexpr int64_t kTokens = 9;

class ReferenceRun {
 public:
  ReferenceRun(const model::ModelConfig& config, const NamedValues& weights, const Batch& batch)
      : batch_(batch), model_(config, Widen(weights)) {}

  double Loss() const {
    double sum = 0;
    for (int64_t row = 0; row < batch_.batch_size; ++row) {
      sum += model_.LossSum(Row(batch_.tokens, row), Row(batch_.targets, row),
                            Row(batch_.loss_mask, row));
    }
    return sum / static_cast<double>(batch_.num_targets());
  }

  // (f(w + h) - f(w - h)) / 2h errs by h^2 f'''/6 ~ 1e-9 and eps f / h ~ 1e-11 with h = 3e-5.
  NamedValues Gradients() {
    constexpr double kStep = 3e-5;
    NamedValues grads;
    for (auto& [name, values] : model_.weights()) {
      for (double& value : values) {
        const double at = value;
        value = at + kStep;
        const double above = Loss();
        value = at - kStep;
        const double below = Loss();
        value = at;
        grads[name].push_back(static_cast<float>((above - below) / (2 * kStep)));
      }
    }
    return grads;
  }

 private:
  static ReferenceModel::Weights Widen(const NamedValues& weights) {
    ReferenceModel::Weights wide;
    for (const auto& [name, values] : weights) wide[name].assign(values.begin(), values.end());
    return wide;
  }
  template <typename T>
  std::vector<T> Row(const std::vector<T>& values, int64_t row) const {
    if (values.empty()) return {};
    const auto begin = values.begin() + row * batch_.seq_length;
    return {begin, begin + batch_.seq_length};
  }

  const Batch& batch_;
  ReferenceModel model_;
};

// Relative errors of FP32 results of two layers: see ExpectedErrorFp32 in parity_test.cc; 1e-9 of
// the differences' own error is far below. Gradients of 1e-4 of the largest carry that share of the
// absolute error, so parts are judged by L2.
constexpr double kTolerance = 1e-5;

void ExpectReference(const std::string& variant, bool masked) {
  SCOPED_TRACE(variant);
  const model::ModelConfig config = ConfigFromText(
      "vocab_size: 11 hidden_size: 8 num_layers: 2 num_heads: 2 rotary_pct: 0.5 "
      "max_positions: 16 " +
      variant);
  const NamedValues weights = RandomWeights(config, 5);
  Batch batch = RandomBatch(config, kRows, kTokens, 6);
  if (masked) {
    batch.loss_mask.assign(kRows * kTokens, 1);
    for (size_t i = 0; i < batch.loss_mask.size(); i += 3) batch.loss_mask[i] = 0;
  }
  ModelUnderTest model(config, {.batch_size = kRows, .seq_length = kTokens});
  model.SetWeights(weights);
  const ModelResults results = model.Run(batch);
  ReferenceRun reference(config, weights, batch);
  EXPECT_NEAR(results.loss, reference.Loss(), kTolerance * results.loss);
  for (const PartError& part : GradientErrors(config, results.grads, reference.Gradients())) {
    EXPECT_LE(part.error, kTolerance) << part.part;
  }
}

constexpr char kSep[] = "attention { kind: SEP window: 2 num_initial: 1 separator_ids: [3, 7] } ";

TEST(Gradients, ParallelResidual) { ExpectReference(kSep, false); }
TEST(Gradients, SequentialResidual) {
  ExpectReference(std::string(kSep) + "parallel_residual: false", false);
}
TEST(Gradients, TiedHead) { ExpectReference(std::string(kSep) + "tie_embeddings: true", false); }
TEST(Gradients, MaskedTargets) { ExpectReference(kSep, true); }
TEST(Gradients, SequentialTiedErfNarrowMlp) {
  ExpectReference(
      "parallel_residual: false tie_embeddings: true activation: ERF_GELU intermediate_size: 20 "
      "attention { kind: FIXED_STRIDE stride: 3 window: 1 num_initial: 0 full_layers: -1 }",
      true);
}

// Gradients of two micro-batches add up to those of one batch; with a tied head too, whose matrix
// receives two contributions in each of them.
void ExpectAccumulation(const std::string& variant) {
  SCOPED_TRACE(variant);
  const model::ModelConfig config = ConfigFromText(
      "vocab_size: 11 hidden_size: 8 num_layers: 2 num_heads: 2 max_positions: 16 rotary_pct: "
      "0.5 " +
      std::string(kSep) + variant);
  const Batch both = RandomBatch(config, 2, kTokens, 8);
  const auto row = [&](int64_t r) {
    const auto at = [&](const std::vector<int32_t>& values) {
      return std::vector<int32_t>(values.begin() + r * kTokens, values.begin() + (r + 1) * kTokens);
    };
    return MakeBatch(config, at(both.tokens), at(both.targets), 1, kTokens);
  };
  ModelUnderTest model(config, {.batch_size = 2, .seq_length = kTokens});
  model.SetWeights(RandomWeights(config, 5));
  const ModelResults expected = model.Run(both);
  const float grad_scale = 1.0f / (2 * kTokens);
  double loss = 0;
  for (int64_t r = 0; r < 2; ++r) {
    const Batch batch = row(r);
    model.Forward(batch);
    loss +=
        model.Backward(batch, grad_scale, r == 0 ? GradMode::kOverwrite : GradMode::kAccumulate);
  }
  EXPECT_NEAR(loss / (2 * kTokens), expected.loss, kTolerance);
  for (const PartError& part : GradientErrors(config, model.Gradients(1), expected.grads)) {
    EXPECT_LE(part.error, kTolerance) << part.part;
  }
}

TEST(Gradients, AccumulateOverMicroBatches) {
  ExpectAccumulation("");
  ExpectAccumulation("tie_embeddings: true parallel_residual: false");
}

}  // namespace
}  // namespace sepia::testing
