#include "data/index_maps.h"

#include <cstring>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/sha256.h"
#include "data/index_map_cache.h"
#include "data/neox_dataset.h"
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
using ::testing::HasSubstr;

IndexMapSpec SpecOf(const json& reference) {
  return {.first_document = reference["documents"][0],
          .end_document = reference["documents"][1],
          .num_samples = reference["num_samples"],
          .seq_length = reference["seq_length"],
          .seed = reference["seed"]};
}

IndexMapPaths PathsIn(const std::string& folder, const json& reference) {
  return {.doc = folder + "/" + std::string(reference["doc_idx"]["file_name"]),
          .sample = folder + "/" + std::string(reference["sample_idx"]["file_name"]),
          .shuffle = folder + "/" + std::string(reference["shuffle_idx"]["file_name"])};
}

void ExpectMapFile(const json& reference, const std::string& path) {
  ExpectArray(reference, ReadNpy(path), path);
  EXPECT_EQ(Sha256Hex(ReadFile(path)), reference["file_sha256"]) << path;
}

void ExpectPlan(const json& reference, const IndexMapPlan& plan) {
  EXPECT_EQ(plan.tokens_per_epoch, reference["tokens_per_epoch"]);
  EXPECT_EQ(plan.num_epochs, reference["num_epochs"]);
  EXPECT_EQ(plan.num_samples, reference["N"]);
}

void ExpectWindows(const json& reference, const std::string& fixtures, const Dataset& dataset) {
  EXPECT_EQ(dataset.length(), reference["len"]);
  std::vector<int32_t> sample(static_cast<size_t>(dataset.seq_length()) + 1);
  if (!reference.contains("windows")) return;
  const json& windows = reference["windows"];
  std::vector<int64_t> tokens;
  for (const int64_t k : windows["indices"]) {
    dataset.Sample(k, sample);
    tokens.insert(tokens.end(), sample.begin(), sample.end());
  }
  EXPECT_EQ(tokens, ReadNpy(fixtures + "/" + std::string(windows["file"])));
  ExpectArray(windows, tokens, "windows");
  Sha256 all;
  for (int64_t k = 0; k < dataset.length(); ++k) {
    dataset.Sample(k, sample);
    all.Update(std::as_bytes(std::span(sample)));
  }
  EXPECT_EQ(all.FinishHex(), reference["all_windows_sha256_i32"]);
}

TEST(IndexMaps, EqualNeoxInEveryCase) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  TempDir dir;
  const std::vector<int64_t> large = ReadNpy(fixtures + "/index_maps/large_sizes.npy");
  const std::vector<int32_t> large_sizes(large.begin(), large.end());
  for (const json& reference : ReadJson(fixtures + "/index_maps.json")) {
    SCOPED_TRACE(reference["case"]);
    const IndexMapSpec spec = SpecOf(reference);
    const IndexMapPaths paths = PathsIn(dir.path(), reference);
    std::shared_ptr<const IndexedDataset> dataset;
    SequenceSizes sizes(large_sizes.data(), static_cast<int64_t>(large_sizes.size()));
    if (reference["dataset"] != "large") {
      dataset = std::make_shared<const IndexedDataset>(fixtures + "/datasets/" +
                                                       std::string(reference["dataset"]));
      sizes = dataset->sizes();
    }
    const IndexMapPlan plan = PlanIndexMaps(sizes, spec, "test");
    ExpectPlan(reference, plan);
    WriteIndexMaps(sizes, spec, plan, paths);
    ExpectMapFile(reference["doc_idx"], paths.doc);
    ExpectMapFile(reference["sample_idx"], paths.sample);
    ExpectMapFile(reference["shuffle_idx"], paths.shuffle);
    auto maps = std::make_shared<const IndexMaps>(paths, spec, plan);
    if (dataset != nullptr) ExpectWindows(reference, fixtures, NeoxDataset(dataset, maps));
  }
}

TEST(IndexMaps, PublishedMapsAreRead) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  for (const json& reference : ReadJson(fixtures + "/index_maps.json")) {
    if (!reference["doc_idx"]["file_given"]) continue;
    SCOPED_TRACE(reference["case"]);
    const auto dataset = std::make_shared<const IndexedDataset>(fixtures + "/datasets/" +
                                                                std::string(reference["dataset"]));
    const std::string name = reference["case"];
    const auto maps = OpenIndexMaps(*dataset, SpecOf(reference), name,
                                    {.cache_dir = fixtures + "/index_maps"});
    ExpectWindows(reference, fixtures, NeoxDataset(dataset, maps));
  }
}

// Golden values of GPT-NeoX v1.0 for the toy dataset (see tests/golden/data).
TEST(IndexMaps, Toy) {
  TempDir dir;
  const json golden = ReadJson(sepia::testing::GoldenPath("data/toy.json"));
  const IndexedDataset dataset(
      sepia::testing::WriteDataset(dir.File("toy"), sepia::testing::ToyDocuments()));
  const IndexMapSpec spec{.end_document = 8,
                          .num_samples = golden["num_samples"],
                          .seq_length = golden["seq_length"],
                          .seed = golden["seed"]};
  const auto maps = OpenIndexMaps(dataset, spec, "train", {});
  EXPECT_EQ(maps->plan().num_epochs, golden["num_epochs"]);
  EXPECT_EQ(ReadNpy(maps->doc_file().path()), golden["doc_idx"].get<std::vector<int64_t>>());
  EXPECT_EQ(ReadNpy(maps->sample_file().path()), golden["sample_idx"].get<std::vector<int64_t>>());
  EXPECT_EQ(ReadNpy(maps->shuffle_file().path()),
            golden["shuffle_idx"].get<std::vector<int64_t>>());
}

std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(IndexMaps, ImpossibleSpecsAreRefused) {
  const std::vector<int32_t> sizes = {0, 0, 3};
  const SequenceSizes view(sizes.data(), 3);
  const auto plan = [&](IndexMapSpec spec) { PlanIndexMaps(view, spec, "here"); };
  EXPECT_THAT(ErrorOf([&] { plan({.end_document = 2, .num_samples = 1, .seq_length = 4}); }),
              HasSubstr("hold no tokens"));
  EXPECT_THAT(ErrorOf([&] { plan({.end_document = 3, .num_samples = 0, .seq_length = 4}); }),
              HasSubstr("do not fill one sample"));
  EXPECT_THAT(ErrorOf([&] {
                plan({.end_document = 3, .num_samples = int64_t{1} << 40, .seq_length = 2048});
              }),
              HasSubstr("epochs"));
  EXPECT_THAT(ErrorOf([&] {
                plan({.end_document = 3, .num_samples = int64_t{1} << 62, .seq_length = 2048});
              }),
              HasSubstr("too many"));
}

// Every flipped bit of the arrays is noticed when the maps are opened or at the latest when all
// samples are read; nothing crashes.
TEST(IndexMaps, DamagedFilesAreRefused) {
  TempDir dir;
  const auto dataset = std::make_shared<const IndexedDataset>(
      sepia::testing::WriteDataset(dir.File("toy"), sepia::testing::ToyDocuments()));
  const IndexMapSpec spec{.end_document = 8, .num_samples = 12, .seq_length = 4, .seed = 1234};
  const IndexMapPlan plan = PlanIndexMaps(dataset->sizes(), spec, "toy");
  const IndexMapPaths paths = IndexMapPathsIn(dir.path(), dataset->prefix(), "x", spec);
  WriteIndexMaps(dataset->sizes(), spec, plan, paths);
  const auto read_all = [&] {
    const NeoxDataset samples(dataset, std::make_shared<const IndexMaps>(paths, spec, plan));
    std::vector<int32_t> sample(5);
    for (int64_t k = 0; k < plan.num_samples; ++k) samples.Sample(k, sample);
  };
  read_all();
  for (const std::string& path : {paths.doc, paths.sample, paths.shuffle}) {
    const std::string good = ReadFile(path);
    const auto write = [&path](const std::string& bytes) {
      sepia::testing::ReplaceFile(path, bytes);
    };
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      write(bad);
      // The blanks that pad the header may become other blanks.
      const bool in_header = bit / 8 < 128;
      EXPECT_TRUE(ErrorOf(read_all) != "no error" || in_header) << path << " bit " << bit;
    }
    for (size_t length = 0; length < good.size(); ++length) {
      write(good.substr(0, length));
      EXPECT_THROW(read_all(), UserError) << path << " length " << length;
    }
    write(good);
  }
  read_all();
}

}  // namespace
}  // namespace sepia::data
