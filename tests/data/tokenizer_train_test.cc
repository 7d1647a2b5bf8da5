// Vocabularies and merges learned by Hugging Face's BpeTrainer
// (../shared/fixtures/tokenizer/README.md), and properties of training.
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/philox.h"
#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using Json = nlohmann::json;

void ExpectSame(const TokenizerSpec& trained, const std::string& path) {
  const TokenizerSpec expected = ParseTokenizerJson(ReadFile(path), path);
  EXPECT_EQ(trained.merges, expected.merges);
  ASSERT_EQ(trained.vocabulary.size(), expected.vocabulary.size());
  for (int32_t id = 0; id < expected.vocabulary.size(); ++id) {
    EXPECT_EQ(trained.vocabulary.Text(id), expected.vocabulary.Text(id)) << id;
  }
}

TEST(TokenizerTraining, TwoBooksOnAnyNumberOfThreads) {
  SEPIA_SHARED_OR_SKIP(expected, "fixtures/tokenizer/bpe_1024.json");
  SEPIA_SHARED_OR_SKIP(books, "data/pg19");
  std::string first_json;
  for (const int threads : {1, 2, 3, 5}) {
    // The order of the texts must not matter either.
    std::vector<std::string> paths = {books + "/10146.txt", books + "/12204.txt"};
    if (threads == 2) std::swap(paths[0], paths[1]);
    CorpusReader reader(paths, {});
    const WordCounts counts = CountCorpusWords(reader, threads, [](int64_t) {});
    const TokenizerSpec trained = TrainBpe(counts, {.vocab_size = 1024});
    const std::string json = FormatTokenizerJson(trained);
    if (threads == 1) {
      ExpectSame(trained, expected);
      first_json = json;
    }
    EXPECT_EQ(json, first_json) << threads;
  }
}

TEST(TokenizerTraining, Ties) {
  SEPIA_SHARED_OR_SKIP(expected, "fixtures/tokenizer/bpe_ties.json");
  SEPIA_SHARED_OR_SKIP(text, "fixtures/tokenizer/bpe_ties_text.txt");
  WordCounts counts;
  CountWords(ReadFile(text), counts);
  ExpectSame(TrainBpe(counts, {.vocab_size = 96, .all_bytes = false}), expected);
}

TEST(TokenizerTraining, MinimumFrequency) {
  SEPIA_SHARED_OR_SKIP(expected, "fixtures/tokenizer/bpe_minfreq.json");
  SEPIA_SHARED_OR_SKIP(text, "fixtures/tokenizer/bpe_minfreq_text.txt");
  WordCounts counts;
  CountWords(ReadFile(text), counts);
  ExpectSame(TrainBpe(counts, {.vocab_size = 700, .min_frequency = 20}), expected);
}

TEST(TokenizerTraining, TextTooShortForTheVocabulary) {
  SEPIA_SHARED_OR_SKIP(expected, "fixtures/tokenizer/bpe_short_text.json");
  SEPIA_SHARED_OR_SKIP(text, "fixtures/tokenizer/bpe_short_text_text.txt");
  WordCounts counts;
  CountWords(ReadFile(text), counts);
  ExpectSame(TrainBpe(counts, {.vocab_size = 2000}), expected);
}

// The layout that the library itself writes: the same keys in the same order, the same values
// except for how merges are spelled and fields that only concern offsets.
TEST(TokenizerTraining, WrittenFileHasTheLibrarysLayout) {
  SEPIA_SHARED_OR_SKIP(path, "fixtures/tokenizer/bpe_1024.json");
  using Ordered = nlohmann::ordered_json;
  const auto expected = Ordered::parse(ReadFile(path));
  const auto written =
      Ordered::parse(FormatTokenizerJson(ParseTokenizerJson(ReadFile(path), path)));
  const auto keys = [](const Ordered& object) {
    std::vector<std::string> names;
    for (const auto& item : object.items()) names.push_back(item.key());
    return names;
  };
  EXPECT_EQ(keys(written), keys(expected));
  for (const std::string& name : keys(expected)) {
    if (!expected[name].is_object()) continue;
    EXPECT_EQ(keys(written[name]), keys(expected[name])) << name;
  }
  for (const char* same : {"version", "truncation", "padding", "added_tokens", "normalizer"}) {
    EXPECT_EQ(written[same], expected[same]) << same;
  }
  EXPECT_EQ(written["model"]["vocab"].dump(), expected["model"]["vocab"].dump());
  for (size_t i = 0; i < expected["model"]["merges"].size(); ++i) {
    const auto& pair = expected["model"]["merges"][i];
    EXPECT_EQ(written["model"]["merges"][i].get<std::string>(),
              pair[0].get<std::string>() + " " + pair[1].get<std::string>());
  }
}

// Against the definition: count every pair anew after every merge.
TEST(TokenizerTraining, EqualsTheNaiveTrainerOnRandomWords) {
  const PhiloxStream random(7, "words");
  uint64_t draw = 0;
  for (int round = 0; round < 30; ++round) {
    WordCounts counts;
    std::vector<std::pair<std::vector<int32_t>, int64_t>> words;
    const uint32_t letters = 1 + random.Bits(draw++) % 4;
    for (int w = 0; w < 12; ++w) {
      std::string word;
      const uint32_t length = 1 + random.Bits(draw++) % 14;
      for (uint32_t i = 0; i < length; ++i) {
        word.push_back(static_cast<char>('a' + random.Bits(draw++) % letters));
      }
      counts[word] += 1 + random.Bits(draw++) % 3;
    }
    const BpeTrainerOptions options{.vocab_size = 258 + 25, .min_frequency = round % 4};
    const TokenizerSpec trained = TrainBpe(counts, options);

    std::vector<std::string> texts(258);
    for (int32_t id = 0; id < 258; ++id)
      texts[static_cast<size_t>(id)] = trained.vocabulary.Text(id);
    for (const auto& [word, count] : counts) {
      std::vector<int32_t> ids;
      for (const char c : word) ids.push_back(trained.vocabulary.Find(std::string(1, c)));
      words.emplace_back(ids, count);
    }
    std::vector<Merge> merges;
    while (static_cast<int32_t>(texts.size()) < options.vocab_size) {
      std::map<std::pair<int32_t, int32_t>, int64_t> pairs;
      for (const auto& [ids, count] : words) {
        for (size_t i = 0; i + 1 < ids.size(); ++i) pairs[{ids[i], ids[i + 1]}] += count;
      }
      auto best = pairs.begin();  // std::map: the smallest pair wins ties
      for (auto it = pairs.begin(); it != pairs.end(); ++it) {
        if (it->second > best->second) best = it;
      }
      if (best == pairs.end() || best->second < options.min_frequency) break;
      const auto [left, right] = best->first;
      const std::string text = texts[static_cast<size_t>(left)] + texts[static_cast<size_t>(right)];
      auto known = std::find(texts.begin(), texts.end(), text);
      if (known == texts.end()) known = texts.insert(texts.end(), text);
      const auto result = static_cast<int32_t>(known - texts.begin());
      merges.push_back({left, right, result});
      for (auto& [ids, count] : words) {
        std::vector<int32_t> replaced;
        for (size_t i = 0; i < ids.size(); ++i) {
          const bool match = i + 1 < ids.size() && ids[i] == left && ids[i + 1] == right;
          replaced.push_back(match ? result : ids[i]);
          i += match ? 1 : 0;
        }
        ids = replaced;
      }
    }
    EXPECT_EQ(trained.merges, merges) << "round " << round;
  }
}

TEST(TokenizerTraining, WrittenFileReadsBackTheSame) {
  testing::TempDir directory;
  WordCounts counts;
  CountWords("low lower lowest \"new\" newer\\newest\twide \x01", counts);
  const TokenizerSpec spec =
      TrainBpe(counts, {.vocab_size = 270, .special_tokens = {"<s>", "\"quoted\\\""}});
  const std::string path = directory.File("t.json");
  WriteFileAtomic(path, FormatTokenizerJson(spec));
  const Tokenizer tokenizer = Tokenizer::Load(path);
  EXPECT_EQ(tokenizer.spec().merges, spec.merges);
  EXPECT_EQ(FormatTokenizerJson(tokenizer.spec()), FormatTokenizerJson(spec));
  EXPECT_EQ(tokenizer.IdOf("\"quoted\\\""), 1);
  EXPECT_EQ(tokenizer.Encode("\"quoted\\\"<s>"), (std::vector<int32_t>{1, 0}));
}

TEST(TokenizerTraining, RefusesImpossibleOptions) {
  WordCounts counts = {{"ab", 3}};
  EXPECT_THROW(TrainBpe(counts, {.vocab_size = 257}), UserError);
  EXPECT_NO_THROW(TrainBpe(counts, {.vocab_size = 258}));
  EXPECT_THROW(TrainBpe(counts, {.vocab_size = 1 << 30}), UserError);
  EXPECT_THROW(TrainBpe(counts, {.vocab_size = 300, .special_tokens = {"a", "a"}}), UserError);
  EXPECT_THROW(TrainBpe(counts, {.vocab_size = 300, .special_tokens = {""}}), UserError);
  EXPECT_THROW(TrainBpe(counts, {.vocab_size = 300, .special_tokens = {"\xFF"}}), UserError);
}

}  // namespace
}  // namespace sepia::data
