#include "data/indexed_dataset.h"

#include <unistd.h>

#include <filesystem>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/sha256.h"
#include "tests/data/data_fixtures.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using sepia::testing::ReadJson;
using sepia::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> Sequence(const IndexedDataset& dataset, int64_t i) {
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.size(i)));
  dataset.Read(i, 0, tokens);
  return tokens;
}

// Of an i64 dataset, whose elements need not be token ids.
std::vector<int64_t> WideSequence(const IndexedDataset& dataset, int64_t i) {
  std::vector<int64_t> tokens(static_cast<size_t>(dataset.size(i)));
  dataset.ReadBytes(8 * dataset.first_token(i), std::as_writable_bytes(std::span(tokens)));
  return tokens;
}

std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData) << error.what();
    return error.what();
  }
  return "no error";
}

std::string Hex(const std::string& bytes) {
  std::string hex;
  for (const char c : bytes) hex += fmt::format("{:02x}", static_cast<uint8_t>(c));
  return hex;
}

// The file that GPT-NeoX's builder writes for sizes 3, 1, 4 (see tests/golden/data).
TEST(IndexedDataset, WritesKnownBytes) {
  TempDir dir;
  sepia::testing::WriteDataset(dir.File("x"), {{1, 2, 3}, {4}, {5, 6, 7, 8}});
  EXPECT_EQ(
      Hex(ReadFile(dir.File("x.idx"))),
      "4d4d494449445800000100000000000000080300000000000000040000000000000003000000010000000400"
      "000000000000000000000600000000000000080000000000000000000000000000000100000000000000020"
      "00000000000000300000000000000");
  EXPECT_EQ(Hex(ReadFile(dir.File("x.bin"))), "01000200030004000500060007000800");
}

TEST(IndexedDataset, FixturesAreReadAndWritten) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  TempDir dir;
  const nlohmann::json datasets = ReadJson(fixtures + "/datasets.json");
  for (const auto& [name, reference] : datasets.items()) {
    SCOPED_TRACE(name);
    const IndexedDataset dataset(fixtures + "/datasets/" + name);
    EXPECT_EQ(dataset.num_sequences(), reference["sequences"]);
    EXPECT_EQ(dataset.num_document_entries(), reference["doc_idx_entries"]);
    EXPECT_EQ(dataset.num_tokens(), reference["tokens"]);
    std::vector<int64_t> sizes;
    std::vector<int64_t> pointers;
    std::vector<int64_t> documents;
    for (int64_t i = 0; i < dataset.num_sequences(); ++i) {
      sizes.push_back(dataset.size(i));
      pointers.push_back(dataset.first_token(i) * DTypeSize(dataset.dtype()));
    }
    for (int64_t i = 0; i < dataset.num_document_entries(); ++i) {
      documents.push_back(dataset.document_entry(i));
    }
    sepia::testing::ExpectArray(reference["sizes"], sizes, "sizes");
    sepia::testing::ExpectArray(reference["pointers"], pointers, "pointers");
    sepia::testing::ExpectArray(reference["doc_idx"], documents, "doc_idx");
    if (name == "merged_text_document") continue;  // no builder writes a document index of [0]

    IndexedDatasetWriter writer(dir.File(name), dataset.dtype());
    for (size_t d = 0; d + 1 < documents.size(); ++d) {
      for (int64_t i = documents[d]; i < documents[d + 1]; ++i) {
        if (dataset.dtype() == DType::kInt64) {
          writer.AddSequence(WideSequence(dataset, i));
        } else {
          writer.AddSequence(Sequence(dataset, i));
        }
      }
      writer.EndDocument();
    }
    writer.Finish();
    EXPECT_EQ(Sha256Hex(ReadFile(dir.File(name + ".idx"))), reference["idx_sha256"]);
    EXPECT_EQ(Sha256Hex(ReadFile(dir.File(name + ".bin"))), reference["bin_sha256"]);
  }
}

TEST(IndexedDataset, ToyIsReadableByEye) {
  TempDir dir;
  const IndexedDataset dataset(
      sepia::testing::WriteDataset(dir.File("toy"), sepia::testing::ToyDocuments()));
  EXPECT_THAT(Sequence(dataset, 2), ElementsAre(300, 301, 302, 303, 304, 305, 306));
  std::vector<int32_t> across(5);
  dataset.ReadStream(6, across);
  EXPECT_THAT(across, ElementsAre(201, 202, 300, 301, 302));
  EXPECT_EQ(dataset.StreamPlace(8).sequence, 2);
  EXPECT_EQ(dataset.StreamPlace(7).sequence, 1);
  EXPECT_EQ(dataset.Place(2, 3).byte_offset, 2 * (5 + 3 + 3));
}

// Odd shard sizes: a token may straddle two files.
TEST(IndexedDataset, ShardsAreReadWithoutJoining) {
  TempDir dir;
  const std::string prefix =
      sepia::testing::WriteDataset(dir.File("toy"), sepia::testing::ToyDocuments());
  const IndexedDataset whole(prefix);
  for (const int64_t last : {2, 3}) {  // "of" the last number, and of the count
    SCOPED_TRACE(last);
    TempDir shards;
    std::filesystem::copy_file(prefix + ".idx", shards.File("toy.idx"));
    const std::string bytes = ReadFile(prefix + ".bin");
    const size_t cuts[] = {0, 7, 7 + 22, bytes.size()};
    for (size_t i = 0; i < 3; ++i) {
      WriteFileAtomic(shards.File(fmt::format("toy-{:05}-of-{:05}.bin", i, last)),
                      std::string_view(bytes).substr(cuts[i], cuts[i + 1] - cuts[i]));
    }
    const IndexedDataset sharded(shards.File("toy"));
    std::vector<int32_t> expected(static_cast<size_t>(whole.num_tokens()));
    std::vector<int32_t> found(expected.size());
    whole.ReadStream(0, expected);
    sharded.ReadStream(0, found);
    EXPECT_EQ(found, expected);
    EXPECT_EQ(sharded.StreamPlace(3).byte_offset, 6);
    EXPECT_EQ(sharded.StreamPlace(4).byte_offset, 1) << "second file";
    std::filesystem::remove(shards.File(fmt::format("toy-00001-of-{:05}.bin", last)));
    EXPECT_THAT(ErrorOf([&] { IndexedDataset{shards.File("toy")}; }),
                HasSubstr("shard 1 is missing"));
  }
}

TEST(IndexedDataset, MissingFilesAreNamed) {
  TempDir dir;
  EXPECT_THAT(ErrorOf([&] { IndexedDataset{dir.File("none")}; }), HasSubstr("none.idx"));
  sepia::testing::WriteDataset(dir.File("x"), {{1}});
  std::filesystem::remove(dir.File("x.bin"));
  EXPECT_THAT(ErrorOf([&] { IndexedDataset{dir.File("x")}; }), HasSubstr("x.bin"));
}

TEST(IndexedDataset, NegativeIdsAreRefused) {
  TempDir dir;
  sepia::testing::WriteDataset(dir.File("x"), {{1, 2}, {3, 40000, 5}});
  std::string idx = ReadFile(dir.File("x.idx"));
  idx[17] = 3;  // i16: 40000 becomes negative
  WriteFileAtomic(dir.File("x.idx"), idx);
  const IndexedDataset dataset(dir.File("x"));
  const std::string message = ErrorOf([&] { Sequence(dataset, 1); });
  EXPECT_THAT(message, HasSubstr("x.bin"));
  EXPECT_THAT(message, HasSubstr("6"));
  EXPECT_THAT(message, HasSubstr("sequence 1"));
}

TEST(IndexedDataset, BinThatShrinksDuringARunIsAnError) {
  TempDir dir;
  sepia::testing::WriteDataset(dir.File("x"), {std::vector<int32_t>(5000, 7)});
  const IndexedDataset dataset(dir.File("x"));
  ASSERT_EQ(truncate(dir.File("x.bin").c_str(), 100), 0);
  EXPECT_THAT(ErrorOf([&] { Sequence(dataset, 0); }), HasSubstr("x.bin"));
}

TEST(IndexedDatasetWriter, RefusesIdsThatDoNotFit) {
  TempDir dir;
  IndexedDatasetWriter writer(dir.File("x"), DType::kUInt16);
  EXPECT_THAT(ErrorOf([&] {
                writer.AddDocument(std::vector<int32_t>{1, 65536});
              }),
              HasSubstr("65536"));
  EXPECT_THAT(ErrorOf([&] { writer.AddDocument(std::vector<int32_t>{-1}); }), HasSubstr("-1"));
}

TEST(IndexedDatasetWriter, LeavesNothingWithoutFinish) {
  TempDir dir;
  sepia::testing::WriteDataset(dir.File("x"), {{1, 2, 3}});
  const std::string before = ReadFile(dir.File("x.bin"));
  {
    IndexedDatasetWriter writer(dir.File("x"), DType::kUInt16);
    writer.AddDocument(std::vector<int32_t>{9});
  }
  EXPECT_EQ(ReadFile(dir.File("x.bin")), before);
  const std::filesystem::directory_iterator files(dir.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
}

TEST(IndexedDatasetWriter, FailsBeforeAnythingIsWritten) {
  EXPECT_THROW(IndexedDatasetWriter("/nonexistent/x", DType::kUInt16), UserError);
}

class HostileIdx : public ::testing::Test {
 protected:
  HostileIdx() {
    sepia::testing::WriteDataset(dir_.File("x"), {{1, 2, 3}, {4}, {}, {5, 6, 7, 8}});
    idx_ = ReadFile(dir_.File("x.idx"));
  }

  // Opens and reads everything; true when the damage was found, false when it made no difference
  // to what can be read safely.
  bool IsRefused(const std::string& idx) {
    sepia::testing::ReplaceFile(dir_.File("x.idx"), idx);
    try {
      const IndexedDataset dataset(dir_.File("x"));
      for (int64_t i = 0; i < dataset.num_sequences(); ++i) Sequence(dataset, i);
      return false;
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
      EXPECT_THAT(error.what(), HasSubstr("x."));
      return true;
    }
  }

  TempDir dir_;
  std::string idx_;
};

TEST_F(HostileIdx, TruncatedAtEveryLength) {
  ASSERT_FALSE(IsRefused(idx_));
  for (size_t length = 0; length < idx_.size(); ++length) {
    EXPECT_TRUE(IsRefused(idx_.substr(0, length))) << length;
  }
  EXPECT_TRUE(IsRefused(idx_ + '\0'));
}

TEST_F(HostileIdx, EverySingleBitFlip) {
  for (size_t bit = 0; bit < 8 * idx_.size(); ++bit) {
    std::string flipped = idx_;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    // Only a flip that leaves a document index with other borders of empty or merged documents
    // can pass: training does not use it.
    const size_t document_index = idx_.size() - 5 * 8;
    EXPECT_TRUE(IsRefused(flipped) || bit / 8 >= document_index) << bit;
  }
}

TEST_F(HostileIdx, AbsurdCounts) {
  for (const size_t field : {18, 26}) {
    for (const char byte : {'\x7f', '\xff', '\x10'}) {
      std::string idx = idx_;
      idx.replace(field, 8, std::string(8, byte));
      EXPECT_TRUE(IsRefused(idx));
    }
  }
}

TEST_F(HostileIdx, BinOfAnotherLength) {
  WriteFileAtomic(dir_.File("x.bin"), ReadFile(dir_.File("x.bin")) + "xx");
  EXPECT_TRUE(IsRefused(idx_));
}

}  // namespace
}  // namespace sepia::data
