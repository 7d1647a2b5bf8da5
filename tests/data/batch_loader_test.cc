#include "data/batch_loader.h"

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/log.h"
#include "data/data_config.pb.h"
#include "data/linear_dataset.h"
#include "tests/data/data_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using sepia::testing::TempDir;
using sepia::testing::ToyDocuments;
using sepia::testing::WriteDataset;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Sample k is k, k + 1, ..., k + T.
class CountingDataset : public Dataset {
 public:
  CountingDataset(int64_t length, int64_t seq_length) : length_(length), seq_length_(seq_length) {}

  int64_t seq_length() const override { return seq_length_; }
  int64_t length() const override { return length_; }
  int64_t SamplesPerPass(int64_t) const override { return length_; }
  void Sample(int64_t k, std::span<int32_t> tokens) const override {
    if (k == fail_at) throw BadData("counting.bin", k, "damaged");
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<int32_t>(k + static_cast<int64_t>(i));
    }
  }
  TokenPlace Place(int64_t k, int64_t position) const override {
    return {.file = "counting.bin", .sequence = k, .byte_offset = position};
  }
  std::string Fingerprint() const override { return "counting"; }
  std::string Describe() const override { return "counting"; }

  int64_t fail_at = -1;

 private:
  int64_t length_;
  int64_t seq_length_;
};

BatchLoaderOptions CountingOptions(int64_t length) {
  return {.dataset = std::make_shared<const CountingDataset>(length, 4),
          .global_batch = 6,
          .micro_batch = 1};
}

class LogCapture {
 public:
  LogCapture() {
    SetLogSink([this](LogLevel, std::string_view text) { lines.emplace_back(text); });
  }
  ~LogCapture() { SetLogSink(nullptr); }
  std::vector<std::string> lines;
};

TEST(BatchLoader, TargetsAreTokensShiftedByOne) {
  BatchLoaderOptions options = CountingOptions(100);
  options.micro_batch = 2;
  BatchLoader loader(options);
  const Batch batch = loader.Next();
  EXPECT_EQ(batch.shape(), (Shape{2, 4}));
  EXPECT_THAT(batch.tokens, ElementsAre(0, 1, 2, 3, 1, 2, 3, 4));
  EXPECT_THAT(batch.targets, ElementsAre(1, 2, 3, 4, 2, 3, 4, 5));
  EXPECT_THAT(batch.sample_ids, ElementsAre(0, 1));
  EXPECT_TRUE(batch.loss_mask.empty());
  EXPECT_EQ(batch.num_targets(), 8);
}

// The same samples in step s, however they are cut up.
TEST(BatchLoader, OrderDoesNotDependOnTheLayout) {
  for (const int64_t shards : {1, 2, 3, 6}) {
    for (const int64_t micro : {1, 2, 3}) {
      if (6 % (shards * micro) != 0) continue;
      for (int64_t step = 0; step < 5; ++step) {
        std::vector<int64_t> seen;
        for (int64_t shard = 0; shard < shards; ++shard) {
          BatchLoaderOptions options = CountingOptions(20);
          options.micro_batch = micro;
          options.shard = shard;
          options.num_shards = shards;
          options.consumed_samples = 6 * step;
          BatchLoader loader(options);
          for (int64_t i = 0; i < loader.micro_batches_per_step(); ++i) {
            const Batch batch = loader.Next();
            seen.insert(seen.end(), batch.tokens.begin(), batch.tokens.end());
          }
          EXPECT_EQ(loader.consumed_samples(), 6 * (step + 1));
        }
        std::sort(seen.begin(), seen.end());
        std::vector<int64_t> expected;
        for (int64_t i = 6 * step; i < 6 * step + 6; ++i) {
          for (int64_t j = 0; j < 4; ++j) expected.push_back(i % 20 + j);
        }
        std::sort(expected.begin(), expected.end());
        EXPECT_EQ(seen, expected) << shards << " shards, micro " << micro << ", step " << step;
      }
    }
  }
}

TEST(BatchLoader, StartingOverIsLogged) {
  LogCapture log;
  BatchLoaderOptions options = CountingOptions(12);
  options.micro_batch = 6;
  options.prefetch = 0;
  BatchLoader loader(options);
  loader.Next();
  loader.Next();
  EXPECT_TRUE(log.lines.empty());
  EXPECT_EQ(loader.Next().tokens[0], 0);
  EXPECT_THAT(log.lines, ElementsAre(HasSubstr("step 2: all 12 samples")));
}

TEST(BatchLoader, PredictionsFromEodCanBeMasked) {
  BatchLoaderOptions options = CountingOptions(100);
  options.mask_eod_loss = true;
  options.eod_id = 3;
  const Batch batch = BatchLoader(options).Next();
  EXPECT_THAT(batch.loss_mask, ElementsAre(1, 1, 1, 0));  // inputs 0 1 2 3
  EXPECT_EQ(batch.num_targets(), 3);
}

TEST(BatchLoader, BuildsTheIndexes) {
  BatchLoaderOptions options = CountingOptions(100);
  options.attention_indexes = {
      {.kind = AttentionKind::kStreaming, .num_initial = 1, .separator_ids = {}},
      {.kind = AttentionKind::kSep, .num_initial = 1, .separator_ids = {2}}};
  const Batch batch = BatchLoader(options).Next();
  ASSERT_EQ(batch.indexes.size(), 2u);
  EXPECT_THAT(batch.indexes[0]->positions(0), ElementsAre(0));
  EXPECT_THAT(batch.indexes[1]->positions(0), ElementsAre(0, 2));
}

TEST(BatchLoader, EndSampleCutsRows) {
  BatchLoaderOptions options = CountingOptions(9);
  options.global_batch = 4;
  options.micro_batch = 2;
  options.num_shards = 2;
  options.end_sample = 9;
  for (const int64_t shard : {0, 1}) {
    options.shard = shard;
    BatchLoader loader(options);
    std::vector<int64_t> rows;
    for (int i = 0; i < 3; ++i) rows.push_back(loader.Next().batch_size);
    EXPECT_EQ(rows, (std::vector<int64_t>{2, 2, shard == 0 ? 1 : 0}));
  }
}

TEST(BatchLoader, FailuresComeInOrder) {
  auto dataset = std::make_shared<CountingDataset>(100, 4);
  dataset->fail_at = 2;
  BatchLoaderOptions options = CountingOptions(100);
  options.dataset = dataset;
  BatchLoader loader(options);
  EXPECT_EQ(loader.Next().tokens[0], 0);
  EXPECT_EQ(loader.Next().tokens[0], 1);
  EXPECT_THROW(loader.Next(), UserError);
  EXPECT_THROW(loader.Next(), UserError);
}

TEST(BatchLoader, TokenOutsideTheVocabularyIsNamed) {
  TempDir dir;
  const auto dataset =
      std::make_shared<const IndexedDataset>(WriteDataset(dir.File("toy"), ToyDocuments()));
  BatchLoaderOptions options{.dataset = std::make_shared<const LinearDataset>(dataset, 0, 8, 4),
                             .global_batch = 1,
                             .micro_batch = 1,
                             .vocab_size = 302};
  BatchLoader loader(options);
  loader.Next();
  loader.Next();
  try {
    loader.Next();
    FAIL();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    // Stream: 5 tokens of document 0, 3 of document 1, then 300, 301, 302: token 10, byte 20.
    EXPECT_THAT(error.what(), HasSubstr("toy.bin"));
    EXPECT_THAT(error.what(), HasSubstr("offset 20"));
    EXPECT_THAT(error.what(), HasSubstr("token id 302 in document 2"));
  }
}

TEST(BatchLoader, PrefetchIsBoundedAndStops) {
  struct Counted : CountingDataset {
    using CountingDataset::CountingDataset;
    void Sample(int64_t k, std::span<int32_t> tokens) const override {
      ++calls;
      CountingDataset::Sample(k, tokens);
    }
    mutable std::atomic<int> calls = 0;
  };
  auto dataset = std::make_shared<Counted>(1000, 4);
  BatchLoaderOptions options = CountingOptions(1000);
  options.dataset = dataset;
  options.prefetch = 3;
  {
    BatchLoader loader(options);
    for (int i = 0; i < 10; ++i) loader.Next();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    // Ten taken, three ready, one in the producer's hand.
    EXPECT_LE(dataset->calls, 14);
    EXPECT_GE(loader.TakeSecondsWaited(), 0);
    EXPECT_EQ(loader.TakeSecondsWaited(), 0);
  }
  BatchLoader unused(options);
}

TEST(BatchLoader, LayoutsThatDoNotFitAreRefused) {
  BatchLoaderOptions options = CountingOptions(100);
  options.micro_batch = 4;
  EXPECT_THROW(BatchLoader{options}, UserError);
}

}  // namespace
}  // namespace sepia::data
