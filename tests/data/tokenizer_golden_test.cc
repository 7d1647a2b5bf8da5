// Numbers of an independent implementation, committed: tests/golden/tokenizer/README.md.
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::data {
namespace {

using Json = nlohmann::json;

TEST(TokenizerGolden, Cases) {
  const Tokenizer tokenizer = Tokenizer::Load(testing::GoldenPath("tokenizer/tokenizer.json"));
  std::ifstream rows(testing::GoldenPath("tokenizer/cases.jsonl"));
  int num_rows = 0;
  for (std::string line; std::getline(rows, line); ++num_rows) {
    const Json row = Json::parse(line);
    const auto text = row.at("text").get<std::string>();
    const auto ids = row.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.Encode(text), ids) << row;
    EXPECT_EQ(tokenizer.Decode(ids), row.at("decoded").get<std::string>()) << row;
    EXPECT_EQ(tokenizer.Decode(ids, true), row.at("skip").get<std::string>()) << row;
  }
  EXPECT_GE(num_rows, 25);
}

TEST(TokenizerGolden, Training) {
  const std::string path = testing::GoldenPath("tokenizer/tokenizer.json");
  const TokenizerSpec expected = ParseTokenizerJson(ReadFile(path), path);
  WordCounts counts;
  CountWords(ReadFile(testing::GoldenPath("tokenizer/training_text.txt")), counts);
  const TokenizerSpec trained = TrainBpe(counts, {.vocab_size = 384});
  EXPECT_EQ(trained.vocabulary.size(), 384);
  EXPECT_EQ(trained.merges, expected.merges);
  for (int32_t id = 0; id < 384; ++id) {
    EXPECT_EQ(trained.vocabulary.Text(id), expected.vocabulary.Text(id));
  }
}

}  // namespace
}  // namespace sepia::data
