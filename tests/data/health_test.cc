#include "data/health.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "data/payload_digest.h"
#include "tests/data/data_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using sepia::testing::ReplaceFile;
using sepia::testing::TempDir;
using sepia::testing::WriteDataset;
using ::testing::HasSubstr;

const Progress kNoProgress = [](int64_t) {};

std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(ExamineDataset, Counts) {
  TempDir dir;
  const IndexedDataset dataset(
      WriteDataset(dir.File("x"), {{5, 6, 15, 0}, {}, {7, 0, 9}, {0}, {13, 15, 15, 15, 2}}));
  const DatasetHealth health =
      ExamineDataset(dataset, {.eod_id = 0, .separator_ids = {15, 13}}, kNoProgress);
  EXPECT_EQ(health.min_id, 0);
  EXPECT_EQ(health.max_id, 15);
  EXPECT_EQ(health.eod_tokens, 3);
  EXPECT_EQ(health.sequences_ending_with_eod, 2);
  EXPECT_EQ(health.separator_tokens, 5);
  EXPECT_EQ(health.empty_sequences, 1);
  EXPECT_EQ(health.shortest, 0);
  EXPECT_EQ(health.longest, 5);
  EXPECT_DOUBLE_EQ(health.mean_length, 13.0 / 5);
  EXPECT_EQ(health.length_counts[0], 1);
  EXPECT_EQ(health.length_counts[1], 1);
  EXPECT_EQ(health.length_counts[2], 2);
}

// Sequences that end inside, at and after the border of the pieces in which tokens are read.
TEST(ExamineDataset, EndsAreSeenAcrossPieces) {
  TempDir dir;
  constexpr int32_t kPiece = 1 << 18;
  std::vector<std::vector<int32_t>> documents;
  for (const int32_t size : {kPiece - 1, 1, 1, kPiece, 2 * kPiece + 3}) {
    documents.emplace_back(static_cast<size_t>(size), 1);
    documents.back().back() = 0;
  }
  const IndexedDataset dataset(WriteDataset(dir.File("x"), documents));
  const DatasetHealth health = ExamineDataset(dataset, {.separator_ids = {}}, kNoProgress);
  EXPECT_EQ(health.sequences_ending_with_eod, 5);
  EXPECT_EQ(health.eod_tokens, 5);
}

TEST(ExamineDataset, EmptyDataset) {
  TempDir dir;
  const IndexedDataset dataset(WriteDataset(dir.File("x"), {}));
  EXPECT_EQ(ExamineDataset(dataset, {.separator_ids = {}}, kNoProgress).max_id, 0);
}

TEST(ExamineDataset, IdsOutsideTheVocabularyAreNamed) {
  TempDir dir;
  const IndexedDataset dataset(WriteDataset(dir.File("x"), {{1, 2}, {3, 99}}));
  const std::string message = ErrorOf(
      [&] { ExamineDataset(dataset, {.separator_ids = {}, .vocab_size = 99}, kNoProgress); });
  EXPECT_THAT(message, HasSubstr("x.bin"));
  EXPECT_THAT(message, HasSubstr("offset 6"));
  EXPECT_THAT(message, HasSubstr("token id 99 in document 1"));
}

class PayloadDigestTest : public ::testing::Test {
 protected:
  PayloadDigestTest() : prefix_(WriteDataset(dir_.File("x"), {std::vector<int32_t>(200000, 7)})) {}

  std::string Check() const {
    return ErrorOf([this] {
      const IndexedDataset dataset(prefix_);
      CheckPayloadDigest(dataset, ReadPayloadDigest(PayloadDigestPath(prefix_)),
                         ComputePayloadDigest(dataset, kNoProgress));
    });
  }
  void Record() const {
    WritePayloadDigest(PayloadDigestPath(prefix_),
                       ComputePayloadDigest(IndexedDataset(prefix_), kNoProgress));
  }

  TempDir dir_;
  std::string prefix_;
};

TEST_F(PayloadDigestTest, IsThatOfTheFiles) {
  const PayloadDigest digest = ComputePayloadDigest(IndexedDataset(prefix_), kNoProgress);
  EXPECT_EQ(digest.bin_sha256, Sha256Hex(ReadFile(prefix_ + ".bin")));
  EXPECT_EQ(digest.idx_sha256, Sha256Hex(ReadFile(prefix_ + ".idx")));
  EXPECT_EQ(digest.block_crc32c.size(), 7u);  // 400,000 bytes in blocks of 65,536
  Record();
  EXPECT_EQ(Check(), "no error");
}

TEST_F(PayloadDigestTest, FlippedBitIsLocated) {
  Record();
  std::string bin = ReadFile(prefix_ + ".bin");
  bin[70000] = static_cast<char>(bin[70000] ^ 1);
  ReplaceFile(prefix_ + ".bin", bin);
  EXPECT_THAT(Check(), HasSubstr("x.bin: offset 65536"));
}

TEST_F(PayloadDigestTest, OtherDatasetsAreNoticed) {
  Record();
  WriteDataset(prefix_, {std::vector<int32_t>(100000, 7), std::vector<int32_t>(100000, 7)});
  EXPECT_THAT(Check(), HasSubstr("x.idx"));
}

TEST_F(PayloadDigestTest, DamagedRecordsAreRefused) {
  Record();
  const std::string path = PayloadDigestPath(prefix_);
  const std::string good = ReadFile(path);
  for (const std::string& bad :
       {good.substr(0, good.size() / 2), std::string("{}"), std::string("[]"), std::string(),
        std::string("{\"format\": 7}"), std::string(100000, '[')}) {
    ReplaceFile(path, bad);
    EXPECT_THAT(Check(), HasSubstr("sha256.json"));
  }
}

}  // namespace
}  // namespace sepia::data
