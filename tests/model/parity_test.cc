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

constexpr char kModels[] = "fixtures/models";

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

// Loss errors of single targets are independent: their mean has 1 / sqrt(M) of the error.
void ExpectParity(const FixtureCase& fixture, const ModelResults& actual, double tolerance) {
  const ModelResults& expected = fixture.expected;
  double largest = 0, error = 0;
  for (size_t i = 0; i < actual.logits.size(); ++i) {
    const auto want = static_cast<double>(expected.logits[i]);
    largest = std::max(largest, std::abs(want));
    error = std::max(error, std::abs(static_cast<double>(actual.logits[i]) - want));
  }
  EXPECT_LE(error / largest, tolerance) << "logits";
  const auto num_targets = static_cast<double>(fixture.batch.num_targets());
  EXPECT_LE(std::abs(actual.loss / expected.loss - 1), tolerance / std::sqrt(num_targets))
      << "loss";
  for (const PartError& part : GradientErrors(fixture.config, actual.grads, expected.grads)) {
    EXPECT_LE(part.error, tolerance) << part.part;
  }
}

void ExpectParityOfEveryCase(const std::string& root) {
  for (const std::string& name : FixtureCaseNames(root)) {
    SCOPED_TRACE(name);
    const size_t slash = name.find('/');
    const FixtureCase fixture =
        LoadFixtureCase(root + "/" + name.substr(0, slash), name.substr(slash + 1));
    const int64_t num_layers = fixture.config.num_layers;
    {
      SCOPED_TRACE("FP32");
      ExpectParity(fixture, RunCase(fixture, DType::kFloat32, 1), ExpectedErrorFp32(num_layers));
    }
    {
      SCOPED_TRACE("BF16");
      ExpectParity(fixture, RunCase(fixture, DType::kBFloat16, 1),
                   ExpectedError(0x1p-8, num_layers));
    }
    {
      SCOPED_TRACE("FP16");  // scaled as Pythia's first steps, so that gradients stay normal
      ExpectParity(fixture, RunCase(fixture, DType::kFloat16, 4096),
                   ExpectedError(0x1p-11, num_layers));
    }
  }
}

TEST(Parity, EveryModelAndAttentionCaseOfTransformers) {
  SEPIA_SHARED_OR_SKIP(root, kModels);
  ExpectParityOfEveryCase(root);
}

}  // namespace
}  // namespace sepia::testing
