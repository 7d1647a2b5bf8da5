// The whole model against Hugging Face transformers (fixtures/models): logits, loss and every
// gradient, for every model and attention case.
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/model/compare.h"
#include "tests/model/fixture_case.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {
namespace {

// A value passes about 24 roundings a layer (12 tensors forward, as many backward), each with a
// relative error of at most u (the unit roundoff), evenly spread: rms u / sqrt(3). They add up in
// quadrature. Backward subtracts means (LayerNorm, softmax), which amplifies what came before;
// kAmplification allows for that.
double ExpectedError(double unit_roundoff, int64_t num_layers) {
  constexpr double kAmplification = 2;
  return kAmplification * unit_roundoff * std::sqrt(24.0 * static_cast<double>(num_layers) / 3);
}

// In FP32 sums round as well, on both sides (sqrt(2)): up to 640 products in a row make a random
// walk of sqrt(640 / 3) half steps, of which vectorised sums take an eighth or less per lane.
double ExpectedErrorFp32(int64_t num_layers) {
  constexpr double kSums = 8;
  return std::sqrt(2.0) * kSums * ExpectedError(0x1p-24, num_layers);
}

ModelResults RunCase(const FixtureCase& fixture, DType dtype, float loss_scale) {
  ModelUnderTest model(fixture.config, {.compute_dtype = dtype,
                                        .batch_size = fixture.batch.batch_size,
                                        .seq_length = fixture.batch.seq_length});
  model.SetWeights(fixture.weights);
  return model.Run(fixture.batch, loss_scale);
}

// The last positions of each row, as many as `like` has.
std::vector<float> LastPositions(const std::vector<float>& logits, size_t rows, size_t like) {
  const size_t row = logits.size() / rows;
  const size_t kept = like / rows;
  std::vector<float> result;
  for (size_t r = 1; r <= rows; ++r) {
    const auto end = logits.begin() + static_cast<int64_t>(r * row);
    result.insert(result.end(), end - static_cast<int64_t>(kept), end);
  }
  return result;
}

// Loss errors of single targets are independent: their mean has 1 / sqrt(M) of the error.
void ExpectParity(const FixtureCase& fixture, const ModelResults& actual, double tolerance) {
  const ModelResults& expected = fixture.expected;
  const std::vector<float> logits = LastPositions(
      actual.logits, static_cast<size_t>(fixture.batch.batch_size), expected.logits.size());
  double largest = 0, error = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto want = static_cast<double>(expected.logits[i]);
    largest = std::max(largest, std::abs(want));
    error = std::max(error, std::abs(static_cast<double>(logits[i]) - want));
  }
  EXPECT_LE(error / largest, tolerance) << "logits";
  const auto num_targets = static_cast<double>(fixture.batch.num_targets());
  EXPECT_LE(std::abs(actual.loss / expected.loss - 1), tolerance / std::sqrt(num_targets))
      << "loss";
  for (const PartError& part : GradientErrors(fixture.config, actual.grads, expected.grads)) {
    EXPECT_LE(part.error, tolerance) << part.part;
  }
}

// What each query sees, layer by layer, as the kernels read it from the packed index: [L, B, T, T].
std::vector<uint8_t> MaskOfIndexes(const FixtureCase& fixture) {
  const Batch& batch = fixture.batch;
  const int64_t T = batch.seq_length;
  const model::AttentionPlan plan = model::MakeAttentionPlan(fixture.config);
  std::vector<uint8_t> mask(plan.layers.size() * static_cast<size_t>(batch.batch_size * T * T));
  auto row = mask.begin();
  for (const model::AttentionPlan::Layer& layer : plan.layers) {
    for (int64_t b = 0; b < batch.batch_size; ++b) {
      for (int64_t i = 0; i < T; ++i, row += T) {
        for (int64_t j = std::max<int64_t>(0, i - layer.window + 1); j <= i; ++j) row[j] = 1;
        if (layer.index < 0 || i < layer.window) continue;
        const AttentionIndex& index = *batch.indexes[static_cast<size_t>(layer.index)];
        const int32_t far = index.count(b)[static_cast<size_t>(i - layer.window)];
        for (int32_t p = 0; p < far; ++p) row[index.positions(b)[static_cast<size_t>(p)]] = 1;
      }
    }
  }
  return mask;
}

void ExpectParityInEveryPrecision(const std::string& folder, const std::string& name) {
  SCOPED_TRACE(folder + "/" + name);
  const FixtureCase fixture = LoadFixtureCase(folder, name);
  const int64_t num_layers = fixture.config.num_layers;
  if (!fixture.mask.empty()) {
    EXPECT_TRUE(MaskOfIndexes(fixture) == fixture.mask);
  }
  {
    SCOPED_TRACE("FP32");
    ExpectParity(fixture, RunCase(fixture, DType::kFloat32, 1), ExpectedErrorFp32(num_layers));
  }
  {
    SCOPED_TRACE("BF16");
    ExpectParity(fixture, RunCase(fixture, DType::kBFloat16, 1), ExpectedError(0x1p-8, num_layers));
  }
  {
    SCOPED_TRACE("FP16");  // scaled as Pythia's first steps, so that gradients stay normal
    ExpectParity(fixture, RunCase(fixture, DType::kFloat16, 4096),
                 ExpectedError(0x1p-11, num_layers));
  }
}

TEST(Parity, EveryModelAndAttentionCaseOfTransformers) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/models");
  for (const std::string& name : FixtureCaseNames(root)) {
    const size_t slash = name.find('/');
    ExpectParityInEveryPrecision(root + "/" + name.substr(0, slash), name.substr(slash + 1));
  }
}

// The committed cut of the same data (tests/golden/model/README.md).
TEST(Parity, Goldens) {
  ExpectParityInEveryPrecision(GoldenPath("model"), "sep_n8_H");
  ExpectParityInEveryPrecision(GoldenPath("model"), "erf_full");
}

}  // namespace
}  // namespace sepia::testing
