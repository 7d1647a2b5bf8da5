#include "data/blend.h"

#include <gtest/gtest.h>

#include "data/blended_dataset.h"
#include "data/index_map_cache.h"
#include "data/neox_dataset.h"
#include "data/split.h"
#include "tests/data/data_fixtures.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using nlohmann::json;
using sepia::testing::ExpectArray;
using sepia::testing::ReadJson;
using sepia::testing::ReadNpy;
using sepia::testing::TempDir;

TEST(Split, EqualsNeox) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  for (const json& reference : ReadJson(fixtures + "/splits.json")) {
    const std::string split = reference["split"];
    const int64_t documents = reference["documents"];
    const SplitBounds expected = reference["bounds"].get<SplitBounds>();
    EXPECT_EQ(NeoxSplitBounds(split, documents), expected) << split << " of " << documents;
    if (expected[1] < 0) {
      EXPECT_THROW(SplitDocuments(split, documents), UserError);
    } else {
      EXPECT_EQ(SplitDocuments(split, documents), expected);
    }
  }
}

TEST(Split, NonsenseIsRefused) {
  for (const char* split : {"", "a,b", "1,,2", "0,0,0", "-1,2,3", "1,nan,1", "inf,1,1", "1;2;3"}) {
    EXPECT_THROW(NeoxSplitBounds(split, 10), UserError) << split;
  }
}

TEST(Weights, EqualNeox) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  const json reference = ReadJson(fixtures + "/weights.json");
  for (const json& row : reference["get_normalized_weights_and_num_samples"]) {
    const std::vector<double> weights =
        NormalizedWeights(row["weights"].get<std::vector<double>>());
    EXPECT_EQ(weights, row["normalized"].get<std::vector<double>>());
    EXPECT_EQ(SamplesPerDataset(weights, row["num_samples"]),
              row["num_samples_each"].get<std::vector<int64_t>>());
  }
  for (const json& row : reference["weights_by_num_docs"]) {
    EXPECT_EQ(WeightsByNumDocuments(row["num_docs"].get<std::vector<int64_t>>(), row["alpha"]),
              row["weights"].get<std::vector<double>>())
        << row["num_docs"] << " " << row["alpha"];
  }
}

TEST(BlendOrder, EqualsNeox) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  for (const json& reference : ReadJson(fixtures + "/blend.json")) {
    SCOPED_TRACE(reference["case"]);
    const BlendOrder order(reference["weights"].get<std::vector<double>>(), reference["size"]);
    std::vector<int64_t> datasets;
    std::vector<int64_t> samples;
    for (int64_t s = 0; s < order.size(); ++s) {
      datasets.push_back(order.At(s).dataset);
      samples.push_back(order.At(s).sample);
    }
    ExpectArray(reference["dataset_index"], datasets, "dataset_index");
    ExpectArray(reference["dataset_sample_index"], samples, "dataset_sample_index");
  }
}

TEST(BlendedDataset, EqualsNeoxOnRealData) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  TempDir dir;
  for (const json& reference : ReadJson(fixtures + "/blend.json")) {
    if (!reference.contains("windows")) continue;
    std::vector<std::shared_ptr<const Dataset>> parts;
    const std::vector<int64_t> samples(reference["datasets"].size(), reference["num_samples_each"]);
    for (const std::string name : reference["datasets"]) {
      const auto dataset = std::make_shared<const IndexedDataset>(fixtures + "/datasets/" + name);
      const IndexMapSpec spec{.end_document = dataset->num_sequences(),
                              .num_samples = samples[parts.size()],
                              .seq_length = reference["seq_length"],
                              .seed = reference["seed"]};
      const auto maps = OpenIndexMaps(*dataset, spec, "train", {.cache_dir = dir.path()});
      parts.push_back(std::make_shared<const NeoxDataset>(dataset, maps));
      EXPECT_EQ(parts.back()->length(), reference["lengths"][parts.size() - 1]);
    }
    const BlendedDataset blend(parts, reference["weights"].get<std::vector<double>>());
    std::vector<int32_t> sample(static_cast<size_t>(blend.seq_length()) + 1);
    std::vector<int64_t> tokens;
    for (const int64_t k : reference["window_indices"]) {
      blend.Sample(k, sample);
      tokens.insert(tokens.end(), sample.begin(), sample.end());
    }
    EXPECT_EQ(tokens, ReadNpy(fixtures + "/blend/windows_real.npy"));
  }
}

// A single dataset needs no table, however long.
TEST(BlendOrder, OfOneIsTheIdentity) {
  const BlendOrder order(std::vector<double>{3.0}, int64_t{1} << 50);
  EXPECT_EQ(order.At((int64_t{1} << 50) - 1).sample, (int64_t{1} << 50) - 1);
}

}  // namespace
}  // namespace sepia::data
