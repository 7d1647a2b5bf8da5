// Ids and texts computed by Hugging Face tokenizers (../shared/fixtures/tokenizer/README.md).
#include <atomic>
#include <fstream>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/sha256.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::data {
namespace {

using Json = nlohmann::json;

std::vector<Json> ReadJsonLines(const std::string& path) {
  std::ifstream in(path);
  std::vector<Json> rows;
  for (std::string line; std::getline(in, line);) rows.push_back(Json::parse(line));
  EXPECT_FALSE(rows.empty()) << path;
  return rows;
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

// Texts and ids of one file; returns the number of rows.
size_t CheckRows(const Tokenizer& tokenizer, const std::string& path) {
  Encoder encoder(tokenizer);
  const std::vector<Json> rows = ReadJsonLines(path);
  for (const Json& row : rows) {
    const auto text = row.at("text").get<std::string>();
    const auto ids = row.at("ids").get<std::vector<int32_t>>();
    if (row.contains("utf8_hex")) {
      EXPECT_EQ(text, FromHex(row.at("utf8_hex")));
    }
    EXPECT_EQ(tokenizer.Encode(text), ids) << row;
    std::vector<int32_t> cached;
    encoder.Encode(text, cached);
    EXPECT_EQ(cached, ids) << row;
    if (!row.contains("decoded")) continue;
    const auto decoded = row.at("decoded").get<std::string>();
    EXPECT_EQ(tokenizer.Decode(ids), decoded) << row;
    EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/true),
              row.value("decoded_skip_special", decoded))
        << row;
  }
  return rows.size();
}

TEST(TokenizerFixtures, Cases) {
  SEPIA_SHARED_OR_SKIP(tokenizer, "data/20B_tokenizer.json");
  SEPIA_SHARED_OR_SKIP(rows, "fixtures/tokenizer/cases.jsonl");
  EXPECT_EQ(CheckRows(Tokenizer::Load(tokenizer), rows), 662u);
}

TEST(TokenizerFixtures, RandomTexts) {
  SEPIA_SHARED_OR_SKIP(tokenizer, "data/20B_tokenizer.json");
  SEPIA_SHARED_OR_SKIP(rows, "fixtures/tokenizer/random.jsonl");
  EXPECT_EQ(CheckRows(Tokenizer::Load(tokenizer), rows), 220u);
}

TEST(TokenizerFixtures, NormalizationIsUnicode9AsInTheLibrary) {
  SEPIA_SHARED_OR_SKIP(tokenizer, "data/20B_tokenizer.json");
  SEPIA_SHARED_OR_SKIP(rows, "fixtures/tokenizer/nfc_version.jsonl");
  EXPECT_EQ(CheckRows(Tokenizer::Load(tokenizer), rows), 16u);
}

TEST(TokenizerFixtures, Decode) {
  SEPIA_SHARED_OR_SKIP(path, "data/20B_tokenizer.json");
  SEPIA_SHARED_OR_SKIP(rows_path, "fixtures/tokenizer/decode.jsonl");
  const Tokenizer tokenizer = Tokenizer::Load(path);
  for (const Json& row : ReadJsonLines(rows_path)) {
    const auto ids = row.at("ids").get<std::vector<int32_t>>();
    const auto decoded = row.at("decoded").get<std::string>();
    EXPECT_EQ(tokenizer.Decode(ids), decoded) << row;
    EXPECT_EQ(tokenizer.Decode(ids, true), row.value("decoded_skip_special", decoded)) << row;
  }
}

TEST(TokenizerFixtures, TrainedTokenizer) {
  SEPIA_SHARED_OR_SKIP(tokenizer, "fixtures/tokenizer/bpe_1024.json");
  SEPIA_SHARED_OR_SKIP(rows, "fixtures/tokenizer/bpe_1024_encodings.jsonl");
  EXPECT_GT(CheckRows(Tokenizer::Load(tokenizer), rows), 0u);
}

TEST(TokenizerFixtures, SizesAndNames) {
  SEPIA_SHARED_OR_SKIP(path, "data/20B_tokenizer.json");
  const Tokenizer tokenizer = Tokenizer::Load(path);
  EXPECT_EQ(tokenizer.vocab_size(), 50277);
  EXPECT_EQ(tokenizer.IdOf("<|endoftext|>"), 0);
  EXPECT_TRUE(tokenizer.IsSpecial(0));
  EXPECT_FALSE(tokenizer.IsSpecial(50276));
  EXPECT_EQ(tokenizer.IdOf("Ġthe"), tokenizer.SingleTokenId(" the"));
  EXPECT_EQ(tokenizer.IdOf("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.SingleTokenId("no such token"), std::nullopt);
  // The default separators of DESIGN section 5.
  const std::vector<std::pair<std::string, int32_t>> separators = {
      {".", 15}, {",", 13},  {"?", 32},   {"!", 2},   {";", 28},
      {":", 27}, {" ", 209}, {"\t", 186}, {"\n", 187}};
  for (const auto& [text, id] : separators) EXPECT_EQ(tokenizer.SingleTokenId(text), id) << text;
  EXPECT_EQ(tokenizer.spec().merges.size(), 50009u);
  EXPECT_EQ(tokenizer.spec().added_tokens.size(), 25u);
}

TEST(TokenizerFixtures, DecodingEveryIdAlone) {
  SEPIA_SHARED_OR_SKIP(path, "data/20B_tokenizer.json");
  SEPIA_SHARED_OR_SKIP(summary_path, "fixtures/tokenizer/summary.json");
  const Json expected = Json::parse(ReadFile(summary_path)).at("single_ids");
  const Tokenizer tokenizer = Tokenizer::Load(path);
  Sha256 digest;
  for (int32_t id = 0; id < expected.at("vocab_size").get<int32_t>(); ++id) {
    digest.Update(tokenizer.Decode(std::vector<int32_t>{id}) + '\0');
  }
  EXPECT_EQ(digest.FinishHex(),
            expected.at("sha256_of_decode_of_every_id_alone_each_followed_by_a_zero_byte"));
}

// Whole books as one string each, several at once: what many threads share must be const.
TEST(TokenizerFixtures, Books) {
  SEPIA_SHARED_OR_SKIP(path, "data/20B_tokenizer.json");
  SEPIA_SHARED_OR_SKIP(summary_path, "fixtures/tokenizer/summary.json");
  SEPIA_SHARED_OR_SKIP(books_path, "data/pg19");
  const Json books = Json::parse(ReadFile(summary_path)).at("books");
  const Tokenizer tokenizer = Tokenizer::Load(path);
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  const auto work = [&] {
    Encoder encoder(tokenizer);
    for (size_t i = next++; i < books.size(); i = next++) {
      const std::string text = ReadFile(books_path + "/" + books[i].at("book").get<std::string>());
      std::vector<int32_t> ids;
      encoder.Encode(text, ids);
      const std::vector<uint16_t> narrow(ids.begin(), ids.end());
      const std::string digest = Sha256Hex(std::as_bytes(std::span(narrow)));
      const std::string round_trip = tokenizer.Decode(ids);
      const std::lock_guard lock(mutex);
      EXPECT_EQ(ids.size(), books[i].at("ids").get<size_t>()) << books[i];
      EXPECT_EQ(digest, books[i].at("ids_sha256_u16le").get<std::string>()) << books[i];
      EXPECT_EQ(round_trip, text) << books[i];
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(books.size(), 20u);
}

}  // namespace
}  // namespace sepia::data
