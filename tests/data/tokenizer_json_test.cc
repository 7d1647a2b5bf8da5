// tokenizer.json files that are damaged, hostile or beyond what Sepia supports: one clear
// UserError, never a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/philox.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::data {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// Letters a, b, c and "ab", "abc"; one special token.
Json Small() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 5, "content": "<e>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
    "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
              "continuing_subword_prefix": null, "end_of_word_suffix": null,
              "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
              "merges": ["a b", "ab c"]}})");
}

// Parses; on refusal returns the message, which must be a kBadData error.
std::string Refusal(const std::string& json) {
  try {
    const Tokenizer tokenizer(ParseTokenizerJson(json, "t.json"));
    tokenizer.Encode("abc <e> a\xC3\xA9");
    return "";
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    EXPECT_THAT(error.what(), HasSubstr("t.json"));
    return error.what();
  }
}

std::vector<int32_t> EncodeWith(const Json& json, const std::string& text) {
  return Tokenizer(ParseTokenizerJson(json.dump(), "t.json")).Encode(text);
}

using Ids = std::vector<int32_t>;

TEST(TokenizerJson, SmallFile) {
  EXPECT_EQ(EncodeWith(Small(), "abcab<e>ba"), (Ids{4, 3, 5, 1, 0}));
  // Bytes without a token are left out, as in the library.
  EXPECT_EQ(EncodeWith(Small(), "a?b"), (Ids{0, 1}));
}

TEST(TokenizerJson, MergesAsPairsAndBeforeTheVocabulary) {
  Json json = Small();
  const Json vocab = json["model"]["vocab"];
  json["model"].erase("vocab");
  json["model"]["merges"] = Json::parse(R"([["a", "b"], ["ab", "c"]])");
  json["model"]["vocab"] = vocab;
  EXPECT_EQ(EncodeWith(json, "abcab<e>ba"), (Ids{4, 3, 5, 1, 0}));
}

TEST(TokenizerJson, PrefixSpaceForEveryPieceThatHasNone) {
  Json json = Small();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  json["model"]["vocab"]["Ġ"] = 6;
  EXPECT_EQ(EncodeWith(json, "a<e>b <e> c"), (Ids{6, 0, 5, 6, 1, 6, 5, 6, 2}));
  // "b " has its own prefix and a trailing space: two words.
}

TEST(TokenizerJson, WithoutNormalizerOrRegex) {
  Json json = Small();
  json["normalizer"] = nullptr;
  json["pre_tokenizer"]["use_regex"] = false;
  json["model"]["vocab"]["Ġ"] = 6;
  json["model"]["vocab"]["bĠ"] = 7;
  json["model"]["merges"].push_back("b Ġ");
  EXPECT_EQ(EncodeWith(json, "b b"), (Ids{7, 1}));
  json["pre_tokenizer"]["use_regex"] = true;
  EXPECT_EQ(EncodeWith(json, "b b"), (Ids{1, 6, 1}));
}

TEST(TokenizerJson, AddedTokensAreFoundLeftmostLongest) {
  Json json = Small();
  const auto add = [&](const std::string& text, int id, bool normalized) {
    Json token = json["added_tokens"][0];
    token["content"] = text;
    token["id"] = id;
    token["special"] = false;
    token["normalized"] = normalized;
    json["added_tokens"].push_back(token);
  };
  add("<e>a", 6, false);
  add("bb", 7, true);
  add("bbbb", 8, true);
  EXPECT_EQ(EncodeWith(json, "<e>abbbbb<e>bbb"), (Ids{6, 8, 1, 5, 7, 1}));
}

TEST(TokenizerJson, HolesInTheIdsAreAllowed) {
  Json json = Small();
  json["added_tokens"][0]["id"] = 1000;
  const Tokenizer tokenizer(ParseTokenizerJson(json.dump(), "t.json"));
  EXPECT_EQ(tokenizer.vocab_size(), 1001);
  EXPECT_EQ(tokenizer.TokenText(500), "");
  EXPECT_EQ(tokenizer.Decode(Ids{0, 500, 1000, -1, 1 << 30}), "a<e>");
}

TEST(TokenizerJson, UnsupportedPartsAreRefusedByName) {
  const auto refusal = [](const std::string& pointer, const Json& value) {
    Json json = Small();
    json[Json::json_pointer(pointer)] = value;
    return Refusal(json.dump());
  };
  EXPECT_THAT(refusal("/normalizer", {{"type", "Lowercase"}}), HasSubstr("Lowercase"));
  EXPECT_THAT(refusal("/pre_tokenizer", {{"type", "Whitespace"}}), HasSubstr("Whitespace"));
  EXPECT_THAT(refusal("/pre_tokenizer", nullptr), HasSubstr("pre_tokenizer"));
  EXPECT_THAT(refusal("/decoder", {{"type", "WordPiece"}}), HasSubstr("WordPiece"));
  EXPECT_THAT(refusal("/decoder", nullptr), HasSubstr("decoder"));
  EXPECT_THAT(refusal("/post_processor", {{"type", "TemplateProcessing"}}),
              HasSubstr("post_processor"));
  EXPECT_THAT(refusal("/model/type", "Unigram"), HasSubstr("Unigram"));
  EXPECT_THAT(refusal("/model/dropout", 0.1), HasSubstr("dropout"));
  EXPECT_THAT(refusal("/model/unk_token", "<unk>"), HasSubstr("unk_token"));
  EXPECT_THAT(refusal("/model/byte_fallback", true), HasSubstr("byte_fallback"));
  EXPECT_THAT(refusal("/model/ignore_merges", true), HasSubstr("ignore_merges"));
  EXPECT_THAT(refusal("/model/end_of_word_suffix", "</w>"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(refusal("/model/invented", 1), HasSubstr("invented"));
  EXPECT_THAT(refusal("/truncation", {{"max_length", 512}}), HasSubstr("truncation"));
  EXPECT_THAT(refusal("/padding", {{"strategy", "BatchLongest"}}), HasSubstr("padding"));
  EXPECT_THAT(refusal("/added_tokens/0/lstrip", true), HasSubstr("lstrip"));
  EXPECT_THAT(refusal("/added_tokens/0/invented", 1), HasSubstr("invented"));
  EXPECT_EQ(refusal("/model/end_of_word_suffix", ""), "");
  EXPECT_EQ(refusal("/post_processor", nullptr), "");
}

TEST(TokenizerJson, ContradictionsAreRefused) {
  const auto refusal = [](const std::string& pointer, const Json& value) {
    Json json = Small();
    json[Json::json_pointer(pointer)] = value;
    return Refusal(json.dump());
  };
  EXPECT_THAT(refusal("/model/vocab/b", 0), HasSubstr("two tokens"));
  EXPECT_THAT(refusal("/model/vocab/b", -1), HasSubstr("integer"));
  EXPECT_THAT(refusal("/model/vocab/b", 4000000000u), HasSubstr("integer"));
  EXPECT_THAT(refusal("/model/vocab/b", 18446744073709551615u), HasSubstr("integer"));
  EXPECT_THAT(refusal("/model/vocab/b", 1.5), HasSubstr("integer"));
  EXPECT_THAT(refusal("/model/vocab/b", "1"), HasSubstr("integer"));
  EXPECT_THAT(refusal("/model/vocab/b", Json::array()), HasSubstr("plain value"));
  EXPECT_THAT(refusal("/model/vocab", Json::object()), HasSubstr("vocab"));
  EXPECT_THAT(refusal("/model/merges/0", "a x"), HasSubstr("model.vocab"));
  EXPECT_THAT(refusal("/model/merges/0", "b a"), HasSubstr("model.vocab"));
  EXPECT_THAT(refusal("/model/merges/0", "ab"), HasSubstr("two tokens"));
  EXPECT_THAT(refusal("/model/merges/0", "a b c"), HasSubstr("two tokens"));
  EXPECT_THAT(refusal("/model/merges/0", {"a"}), HasSubstr("two tokens"));
  EXPECT_THAT(refusal("/model/merges/0", {"a", "b", "c"}), HasSubstr("two strings"));
  EXPECT_THAT(refusal("/model/merges/0", {"a", 1}), HasSubstr("two strings"));
  EXPECT_THAT(refusal("/model/merges/0", {"", "a"}), HasSubstr("two tokens"));
  EXPECT_THAT(refusal("/model/merges/0", 7), HasSubstr("two tokens"));
  EXPECT_THAT(refusal("/model/merges/0", Json::object()), HasSubstr("merges"));
  EXPECT_THAT(refusal("/added_tokens/0/id", 1), HasSubstr("contradicts"));
  EXPECT_THAT(refusal("/added_tokens/0/id", 1 << 25), HasSubstr("out of range"));
  EXPECT_THAT(refusal("/added_tokens/0/content", "a"), HasSubstr("contradicts"));
  EXPECT_THAT(refusal("/added_tokens/0/content", ""), HasSubstr("content"));
  EXPECT_THAT(refusal("/added_tokens/0/content", std::string(300, 'x')), HasSubstr("content"));
  EXPECT_THAT(refusal("/added_tokens/0", 3), HasSubstr("added_tokens"));
  EXPECT_THAT(refusal("/pre_tokenizer/add_prefix_space", "no"), HasSubstr("true or false"));
  Json twice = Small();
  twice["added_tokens"].push_back(twice["added_tokens"][0]);
  EXPECT_THAT(Refusal(twice.dump()), HasSubstr("contradicts"));
}

TEST(TokenizerJson, DuplicateKeysAreRefused) {
  const std::string json = Small().dump();
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string changed = json;
    changed.replace(changed.find(from), from.size(), to);
    return Refusal(changed);
  };
  EXPECT_THAT(replaced("\"b\":1", "\"b\":1,\"b\":6"), HasSubstr("twice"));
  EXPECT_THAT(replaced("\"padding\":null", "\"padding\":null,\"padding\":null"),
              HasSubstr("twice"));
  EXPECT_THAT(replaced("\"merges\":", "\"merges\":[],\"merges\":"), HasSubstr("twice"));
  EXPECT_THAT(replaced("\"model\":", "\"model\":{},\"model\":"), HasSubstr("twice"));
  EXPECT_THAT(replaced("\"special\":true", "\"special\":true,\"special\":false"),
              HasSubstr("twice"));
  EXPECT_THAT(replaced("\"version\":", "\"model.vocab\":{\"x\":9},\"version\":"),
              HasSubstr("unknown key"));
}

TEST(TokenizerJson, OtherJsonIsRefused) {
  EXPECT_NE(Refusal(""), "");
  EXPECT_NE(Refusal("7"), "");
  EXPECT_NE(Refusal("[]"), "");
  EXPECT_NE(Refusal("null"), "");
  EXPECT_NE(Refusal("{}"), "");
  EXPECT_NE(Refusal("{\"model\":null}"), "");
  EXPECT_NE(Refusal("{\"model\":[{}]}"), "");
  EXPECT_NE(Refusal(Small().dump() + "x"), "");
  EXPECT_NE(Refusal("{\"version\":\"\\ud800\"}"), "");
  EXPECT_NE(Refusal("{\"version\":\"\xFF\"}"), "");
}

TEST(TokenizerJson, DeepAndWideNestingIsRefused) {
  EXPECT_THAT(Refusal("{\"model\":" + std::string(1000000, '[')), HasSubstr("nested"));
  std::string objects;
  for (int i = 0; i < 200000; ++i) objects += "{\"a\":";
  EXPECT_THAT(Refusal(objects), HasSubstr("nested"));
  std::string wide = "{\"model\":[[]";
  for (int i = 0; i < 200000; ++i) wide += ",[]";
  EXPECT_THAT(Refusal(wide + "]}"), HasSubstr("more objects"));
  std::string scalars = "{\"a\":1";
  for (int i = 0; i < 20000; ++i) scalars += ",\"k" + std::to_string(i) + "\":1";
  EXPECT_THAT(Refusal(scalars + "}"), HasSubstr("more settings"));
  EXPECT_THAT(Refusal("{\"" + std::string(1 << 20, 'k') + "\":1}"), HasSubstr("key"));
}

// Every prefix of a valid file is refused; every byte of it changed in several ways either parses
// to some tokenizer that works or is refused.
TEST(TokenizerJson, TruncationAndDamage) {
  std::string golden = ReadFile(testing::GoldenPath("tokenizer/tokenizer.json"));
  const PhiloxStream random(1, "damage");
  const size_t end = golden.find_last_of('}');
  for (size_t length = 0; length <= end; length += length < 1500 ? 1 : 37) {
    EXPECT_NE(Refusal(golden.substr(0, length)), "") << length;
  }
  for (uint64_t i = 0; i < 1500; ++i) {
    std::string damaged = golden;
    const size_t at = random.Bits(3 * i) % damaged.size();
    const auto bits = random.Bits(3 * i + 1);
    if (bits % 3 == 0) {
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (bits >> 8) % 8));
    } else if (bits % 3 == 1) {
      damaged.erase(at, 1 + (bits >> 8) % 40);
    } else {
      damaged.insert(at, damaged.substr(random.Bits(3 * i + 2) % damaged.size(), 20));
    }
    Refusal(damaged);
  }
}

TEST(TokenizerJson, LoadNamesTheFile) {
  EXPECT_THROW(
      try { Tokenizer::Load("/nonexistent/tokenizer.json"); } catch (const UserError& error) {
        EXPECT_THAT(error.what(), HasSubstr("/nonexistent/tokenizer.json"));
        throw;
      },
      UserError);
}

}  // namespace
}  // namespace sepia::data
