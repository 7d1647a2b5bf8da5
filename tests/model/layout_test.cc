// Tensor and data parallelism compute what one rank computes: loss, logits and every gathered
// gradient, for every layout of at most eight ranks on every fixture model that it divides.
#include <algorithm>
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "dist/thread_ranks.h"
#include "model/generate.h"
#include "tests/model/compare.h"
#include "tests/model/fixture_case.h"
#include "tests/model/model_under_test.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {
namespace {

// Rows of a chunk under sequence parallelism: several chunks in batches as small as these, the last
// one not full.
constexpr int64_t kChunkRows = 22;

struct Layout {
  int tensor, data;
  bool sequence = false;
  bool recompute = false;
  int64_t chunk_rows = kChunkRows;
};

std::string Name(const Layout& l) {
  return fmt::format("tensor {} x data {}{}", l.tensor, l.data, l.sequence ? ", sequence" : "");
}

std::vector<Layout> Layouts() {
  std::vector<Layout> layouts;
  for (const int tensor : {1, 2, 4}) {
    for (const int data : {1, 2, 4}) {
      for (const bool sequence : {false, true}) {
        if (tensor * data == 1 || tensor * data > 8 || (sequence && tensor == 1)) continue;
        layouts.push_back({tensor, data, sequence, /*recompute=*/sequence && data == 2});
      }
    }
  }
  return layouts;
}

bool Divides(const Layout& layout, const model::ModelConfig& config) {
  return config.num_heads % layout.tensor == 0 && config.vocab_size % layout.tensor == 0;
}

model::ModelOptions OptionsFor(const Batch& batch, DType dtype) {
  return {.compute_dtype = dtype, .batch_size = batch.batch_size, .seq_length = batch.seq_length};
}

// What every rank of the layout computes. Data rank d has rows [B d / D, B (d + 1) / D): unequal
// numbers of rows, and none when there are more ranks than rows.
std::vector<ModelResults> RunLayout(const Layout& layout, const model::ModelConfig& config,
                                    const NamedValues& weights, const Batch& batch, DType dtype,
                                    float loss_scale = 1) {
  std::vector<ModelResults> results(static_cast<size_t>(layout.tensor * layout.data));
  dist::RunThreadRanks(layout.tensor * layout.data, [&](std::unique_ptr<dist::Communicator> world) {
    const auto rank = static_cast<size_t>(world->rank());
    model::ModelOptions options = OptionsFor(batch, dtype);
    options.sequence = layout.sequence;
    options.recompute = layout.recompute;
    options.sequence_chunk_rows = layout.chunk_rows;
    ModelUnderTest model(config, options, dist::MakeCheckedCommunicator(std::move(world)),
                         layout.tensor);
    model.SetWeights(weights);
    const int64_t row = model.mesh().data().rank();
    const int64_t rows = batch.batch_size;
    results[rank] =
        model.Run(CutRows(config, batch, rows * row / layout.data, rows * (row + 1) / layout.data),
                  loss_scale);
  });
  return results;
}

bool SameBits(const ModelResults& a, const ModelResults& b) {
  return a.loss == b.loss && a.grads == b.grads;
}

struct WorstError {
  double loss = 0, gradient = 0;
  std::string where;
};

void ExpectLayoutsAgree(const model::ModelConfig& config, const NamedValues& weights,
                        const Batch& batch, DType dtype, double tolerance, WorstError* worst) {
  const ModelResults one = RunLayout({1, 1}, config, weights, batch, dtype).front();
  for (const Layout& layout : Layouts()) {
    if (!Divides(layout, config)) continue;
    SCOPED_TRACE(Name(layout));
    const std::vector<ModelResults> ranks = RunLayout(layout, config, weights, batch, dtype);
    for (const ModelResults& rank : ranks) EXPECT_TRUE(SameBits(rank, ranks.front()));
    const double loss_error = std::abs(ranks.front().loss / one.loss - 1);
    EXPECT_LE(loss_error, tolerance);
    worst->loss = std::max(worst->loss, loss_error);
    for (const PartError& part : GradientErrors(config, ranks.front().grads, one.grads)) {
      EXPECT_LE(part.error, tolerance) << part.part;
      if (part.error <= worst->gradient) continue;
      worst->gradient = part.error;
      worst->where = part.part;
    }
  }
}

// Another layout is another order of sums in each product and reduction: fp32 rounds each of the
// about 24 tensors a layer passes through, with sums of up to 640 terms (parity_test.cc), here
// bounded by the project's promise.
constexpr double kFp32 = 1e-5;

// In bf16 each tensor is rounded once more or less (u = 2^-8), see parity_test.cc's ExpectedError:
// two computations differ by sqrt(2) of what each is off.
double Bf16Tolerance(int64_t num_layers) {
  return std::sqrt(2.0) * 2 * 0x1p-8 * std::sqrt(24.0 * static_cast<double>(num_layers) / 3);
}

void ExpectFixturesAgree(DType dtype, const std::set<std::string>& cases) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/models");
  WorstError worst;
  for (const std::string& name : FixtureCaseNames(root)) {
    const size_t slash = name.find('/');
    const std::string attention = name.substr(slash + 1);
    if (!cases.empty() && cases.count(attention) == 0) continue;
    SCOPED_TRACE(name);
    const FixtureCase fixture = LoadFixtureCase(root + "/" + name.substr(0, slash), attention);
    const double tolerance =
        dtype == DType::kFloat32 ? kFp32 : Bf16Tolerance(fixture.config.num_layers);
    ExpectLayoutsAgree(fixture.config, fixture.weights, fixture.batch, dtype, tolerance, &worst);
  }
  std::printf("largest relative error: loss %.2e, gradient %.2e (%s)\n", worst.loss, worst.gradient,
              worst.where.c_str());
}

TEST(Layouts, AgreeWithOneRankInFp32) { ExpectFixturesAgree(DType::kFloat32, {}); }

TEST(Layouts, AgreeWithOneRankInBf16) {
  ExpectFixturesAgree(DType::kBFloat16, {"full", "sep_n8", "sep_n8_H"});
}

constexpr char kShape[] =
    "vocab_size: 96 hidden_size: 64 num_layers: 2 num_heads: 4 max_positions: 64 "
    "attention { kind: SEP window: 8 full_layers: 0 separator_ids: [3, 7, 11] } ";

TEST(Layouts, AgreeForOtherArchitectures) {
  for (const char* variant : {"parallel_residual: false", "tie_embeddings: true"}) {
    SCOPED_TRACE(variant);
    const model::ModelConfig config = ConfigFromText(std::string(kShape) + variant);
    WorstError worst;
    ExpectLayoutsAgree(config, RandomWeights(config, 1), RandomBatch(config, 3, 40, 2),
                       DType::kFloat32, kFp32, &worst);
  }
}

// Sharing the rows of the residual stream changes who keeps and adds what, and no sum, as long as
// products see all rows at once.
TEST(Layouts, SequenceParallelismInOneChunkChangesNoBit) {
  for (const char* variant : {"", "parallel_residual: false"}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const model::ModelConfig config = ConfigFromText(std::string(kShape) + variant);
      const NamedValues weights = RandomWeights(config, 1);
      const Batch batch = RandomBatch(config, 3, 39, 2);
      const auto run = [&](bool sequence, bool recompute) {
        const Layout layout{.tensor = 4,
                            .data = 1,
                            .sequence = sequence,
                            .recompute = recompute,
                            .chunk_rows = 1000};
        return RunLayout(layout, config, weights, batch, dtype).front();
      };
      const ModelResults whole = run(false, false);
      EXPECT_TRUE(SameBits(run(true, false), whole)) << variant << DTypeName(dtype);
      EXPECT_TRUE(SameBits(run(true, true), whole)) << variant << DTypeName(dtype);
    }
  }
}

TEST(Layouts, MaskedTargetsCountOnceOverAllRanks) {
  const model::ModelConfig config = ConfigFromText(kShape);
  Batch batch = RandomBatch(config, 3, 40, 2);
  batch.loss_mask.assign(batch.tokens.size(), 1);
  std::fill_n(batch.loss_mask.begin(), 70, uint8_t{0});  // all of row 0, most of row 1
  WorstError worst;
  ExpectLayoutsAgree(config, RandomWeights(config, 1), batch, DType::kFloat32, kFp32, &worst);
}

TEST(Layouts, TwoRunsOfOneLayoutHaveTheSameBits) {
  const model::ModelConfig config = ConfigFromText(kShape);
  const NamedValues weights = RandomWeights(config, 1);
  const Batch batch = RandomBatch(config, 3, 40, 2);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const auto run = [&] { return RunLayout({2, 2}, config, weights, batch, dtype, 256).front(); };
    EXPECT_TRUE(SameBits(run(), run())) << DTypeName(dtype);
  }
}

TEST(Layouts, GenerateTheSameTokens) {
  const model::ModelConfig config = ConfigFromText(kShape);
  const NamedValues weights = RandomWeights(config, 1);
  const std::vector<int32_t> prompt = RandomBatch(config, 1, 9, 4).tokens;
  const auto generate = [&](int tensor) {
    std::vector<std::vector<int32_t>> texts(static_cast<size_t>(tensor));
    dist::RunThreadRanks(tensor, [&](std::unique_ptr<dist::Communicator> world) {
      const auto rank = static_cast<size_t>(world->rank());
      ModelUnderTest model(config, {.seq_length = 1, .gradients = false}, std::move(world), tensor);
      model.SetWeights(weights);
      texts[rank] =
          model::Generate(model.ctx(), model.model(), model.mesh(), prompt,
                          {.max_tokens = 20, .sampling = {.temperature = 0.8, .seed = 3}});
    });
    for (const auto& text : texts) EXPECT_EQ(text, texts.front());
    return texts.front();
  };
  const std::vector<int32_t> expected = generate(1);
  EXPECT_EQ(expected.size(), 20u);
  EXPECT_EQ(generate(2), expected);
  EXPECT_EQ(generate(4), expected);
}

}  // namespace
}  // namespace sepia::testing
