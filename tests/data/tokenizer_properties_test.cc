// Laws that need no reference: UTF-8 against its definition, NFC's own laws, round trips, and work
// that grows no faster than it must.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/philox.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/byte_pair_encoder.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"
#include "base/utf8.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::data {
namespace {

Tokenizer Golden() { return Tokenizer::Load(testing::GoldenPath("tokenizer/tokenizer.json")); }

std::string Nfc(std::string_view text) {
  std::string buffer;
  return std::string(NormalizeNfc(text, buffer));
}

std::string Utf8(std::initializer_list<char32_t> code_points) {
  std::string text;
  for (const char32_t c : code_points) AppendUtf8(c, text);
  return text;
}

TEST(Utf8, EveryCodePointRoundTripsAndNothingElseIsValid) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    const std::string text = Utf8({c});
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    ASSERT_EQ(FirstInvalidUtf8(text) == text.size(), !surrogate) << static_cast<uint32_t>(c);
    if (surrogate) continue;
    size_t position = 0;
    ASSERT_EQ(NextCodePoint(text, position), c);
    ASSERT_EQ(position, text.size());
  }
  EXPECT_EQ(FirstInvalidUtf8(Utf8({0x110000})), 0u);
}

TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r = "\xEF\xBF\xBD";
  const std::vector<std::pair<std::string, std::string>> cases = {
      // Unicode 15, tables 3-8 to 3-11.
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A"},
      {"ab\xE2\x82", "ab" + r},
      {"\xF0\x9F\x98", r},
      {"plain", "plain"},
      {"", ""}};
  for (const auto& [bytes, expected] : cases) EXPECT_EQ(ReplaceInvalidUtf8(bytes), expected);
}

TEST(Utf8, ReplacedTextIsValidAndValidTextIsKept) {
  const PhiloxStream random(2, "bytes");
  for (uint64_t i = 0; i < 5000; ++i) {
    std::string bytes;
    const uint32_t length = random.Bits(i * 100) % 40;
    // Mostly lead and continuation bytes: random bytes would seldom come near a valid sequence.
    for (uint32_t k = 1; k <= length; ++k) {
      const uint32_t bits = random.Bits(i * 100 + k);
      bytes.push_back(static_cast<char>(bits % 3 == 0 ? bits >> 8 : 0x80 + (bits >> 8) % 0x78));
    }
    const std::string mended = ReplaceInvalidUtf8(bytes);
    EXPECT_EQ(FirstInvalidUtf8(mended), mended.size());
    EXPECT_EQ(ReplaceInvalidUtf8(mended), mended);
    const size_t valid = FirstInvalidUtf8(bytes);
    EXPECT_EQ(mended.substr(0, valid), bytes.substr(0, valid));
  }
}

TEST(ByteAlphabet, IsABijection) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    EXPECT_EQ(SymbolsToBytes(BytesToSymbols(bytes)), bytes);
  }
  EXPECT_EQ(BytesToSymbols(" a\n"), "ĠaĊ");
  EXPECT_EQ(SymbolsToBytes(" "), std::nullopt);
  EXPECT_EQ(SymbolsToBytes("a\xE2\x82\xAC"), std::nullopt);
}

TEST(Nfc, KnownForms) {
  EXPECT_EQ(Nfc("plain"), "plain");
  EXPECT_EQ(Nfc(Utf8({'e', 0x301})), Utf8({0xE9}));
  EXPECT_EQ(Nfc(Utf8({0x301, 'e'})), Utf8({0x301, 'e'}));
  EXPECT_EQ(Nfc(Utf8({'o', 0x308, 0x323})), Utf8({0x1ECD, 0x308}));
  EXPECT_EQ(Nfc(Utf8({0xF6, 0x323})), Utf8({0x1ECD, 0x308}));
  EXPECT_EQ(Nfc(Utf8({0x1112, 0x1161, 0x11AB})), Utf8({0xD55C}));
  EXPECT_EQ(Nfc(Utf8({0xD558, 0x11AB})), Utf8({0xD55C}));
  EXPECT_EQ(Nfc(Utf8({0x212B})), Utf8({0xC5}));
  EXPECT_EQ(Nfc(Utf8({0x958})), Utf8({0x915, 0x93C}));  // composition exclusion
  EXPECT_EQ(Nfc(Utf8({0x2F800})), Utf8({0x4E3D}));
  EXPECT_EQ(Nfc(Utf8({0x9C7, 0x9BE})), Utf8({0x9CB}));  // both without a combining class
  EXPECT_EQ(Nfc(Utf8({'a', 0x8D3, 0x334})), Utf8({'a', 0x8D3, 0x334}));  // U+08D3: Unicode 11
  EXPECT_EQ(Nfc(Utf8({0x11935, 0x11930})), Utf8({0x11935, 0x11930}));    // Unicode 13
}

TEST(Nfc, IsIdempotentAndStableUnderConcatenationAtAscii) {
  const PhiloxStream random(3, "nfc");
  const std::vector<char32_t> pool = {'a',   'e',   'o',   0xE9,   0x300,  0x301,   0x308,  0x316,
                                      0x323, 0x334, 0x345, 0x1100, 0x1161, 0x11A8,  0xAC00, 0x915,
                                      0x93C, 0x9C7, 0x9BE, 0x212B, 0x2126, 0x1D15E, 0x8D3,  0x4E00};
  for (uint64_t i = 0; i < 3000; ++i) {
    std::string left;
    std::string right;
    for (uint64_t k = 0; k < 8; ++k) {
      AppendUtf8(pool[random.Bits(i * 16 + k) % pool.size()], left);
      AppendUtf8(pool[random.Bits(i * 16 + 8 + k) % pool.size()], right);
    }
    EXPECT_EQ(Nfc(Nfc(left)), Nfc(left));
    EXPECT_EQ(Nfc(left + "-" + right), Nfc(left) + "-" + Nfc(right));
  }
}

// 300,000 marks in descending order of class: an insertion sort would take minutes.
TEST(Nfc, LongRunsOfMarksAreSorted) {
  std::string text = "a";
  std::string expected_tail;
  for (int i = 0; i < 150000; ++i) text += Utf8({0x345, 0x334});
  const std::string normal = Nfc(text);
  EXPECT_EQ(normal.size(), text.size());
  EXPECT_EQ(normal.substr(1, 2), Utf8({0x334}));
  EXPECT_EQ(normal.substr(1 + 2 * 149999, 4), Utf8({0x334, 0x345}));
}

TEST(PreTokenizer, WhiteSpaceIsUnicodes) {
  const PreTokenizer pre_tokenizer;
  PreTokenizer::Scratch scratch;
  std::vector<char32_t> spaces;
  // "a", the character twice, "b": of two spaces the first is a word of its own, of anything else
  // the two stay together.
  for (char32_t c = 0; c < 0x11000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    const std::string text = "?" + Utf8({c, c}) + "?";
    size_t end = pre_tokenizer.WordEnd(text, 0, scratch);
    if (end != 1) continue;
    end = pre_tokenizer.WordEnd(text, end, scratch);
    if (end == 1 + Utf8({c}).size()) spaces.push_back(c);
  }
  const std::vector<char32_t> white_space = {0x09,   0x0A,   0x0B,   0x0C,   0x0D,   0x20,   0x85,
                                             0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004,
                                             0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A, 0x2028,
                                             0x2029, 0x202F, 0x205F, 0x3000};
  EXPECT_EQ(spaces, white_space);
}

std::vector<std::string> Words(const std::string& text) {
  const PreTokenizer pre_tokenizer;
  PreTokenizer::Scratch scratch;
  std::vector<std::string> words;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_tokenizer.WordEnd(text, begin, scratch);
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

TEST(PreTokenizer, Words) {
  using List = std::vector<std::string>;
  EXPECT_EQ(Words("it's  a 1st test"), (List{"it", "'s", " ", " a", " 1", "st", " test"}));
  EXPECT_EQ(Words("DON'T"), (List{"DON", "'", "T"}));
  EXPECT_EQ(Words("caf\xC3\xA9s"), (List{"caf\xC3\xA9s"}));  // ASCII letters, then another
  EXPECT_EQ(Words("e\xCC\x81"), (List{"e", "\xCC\x81"}));    // a mark is no letter
  EXPECT_EQ(Words(" \n a \n"), (List{" \n", " a", " \n"}));
  EXPECT_EQ(Words("a  "), (List{"a", "  "}));
  EXPECT_EQ(Words("a'b"), (List{"a", "'", "b"}));
}

TEST(Tokenizer, RandomTextRoundTrips) {
  const Tokenizer tokenizer = Golden();
  Encoder encoder(tokenizer);
  const PhiloxStream random(4, "text");
  for (uint64_t i = 0; i < 1000; ++i) {
    std::string bytes;
    const uint32_t length = random.Bits(i * 200) % 150;
    for (uint32_t k = 1; k <= length; ++k) {
      const uint32_t bits = random.Bits(i * 200 + k);
      bytes.push_back(static_cast<char>(bits % 4 == 0 ? bits >> 8 : "a b'st\n1,"[(bits >> 8) % 9]));
    }
    const std::string text = ReplaceInvalidUtf8(bytes);
    std::vector<int32_t> ids;
    encoder.Encode(text, ids);
    EXPECT_EQ(tokenizer.Encode(text), ids);
    EXPECT_EQ(tokenizer.DecodeBytes(ids), Nfc(text));
    if (text != bytes) {
      EXPECT_THROW(tokenizer.Encode(bytes), UserError);
    }
  }
}

TEST(Tokenizer, RandomIdsDecodeToValidUtf8) {
  const Tokenizer tokenizer = Golden();
  const PhiloxStream random(5, "ids");
  for (uint64_t i = 0; i < 1000; ++i) {
    std::vector<int32_t> ids;
    for (uint64_t k = 0; k < 30; ++k) {
      ids.push_back(static_cast<int32_t>(random.Bits(i * 30 + k) % 420) - 10);
    }
    const std::string text = tokenizer.Decode(ids);
    EXPECT_EQ(FirstInvalidUtf8(text), text.size());
  }
}

// Against the definition: find the lowest rank, merge its leftmost pair, start over.
TEST(BytePairEncoder, EqualsTheNaiveAlgorithm) {
  const Tokenizer tokenizer = Golden();
  const TokenizerSpec& spec = tokenizer.spec();
  const BytePairEncoder encoder(spec);
  BytePairEncoder::Scratch scratch;
  const PhiloxStream random(6, "words");
  const std::string letters = "therivandosl ";
  for (uint64_t i = 0; i < 2000; ++i) {
    std::string word;
    const uint32_t length = 1 + random.Bits(i * 64) % 40;
    for (uint32_t k = 1; k <= length; ++k)
      word += letters[random.Bits(i * 64 + k) % letters.size()];
    std::vector<int32_t> expected;
    for (const char c : word) expected.push_back(spec.vocabulary.Find(BytesToSymbols({&c, 1})));
    while (true) {
      size_t best = spec.merges.size();
      size_t place = 0;
      for (size_t k = 0; k + 1 < expected.size(); ++k) {
        for (size_t rank = 0; rank < best; ++rank) {
          if (spec.merges[rank].left != expected[k]) continue;
          if (spec.merges[rank].right != expected[k + 1]) continue;
          best = rank;
          place = k;
        }
      }
      if (best == spec.merges.size()) break;
      expected[place] = spec.merges[best].result;
      expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
    std::vector<int32_t> ids;
    encoder.Encode(word, scratch, ids);
    EXPECT_EQ(ids, expected) << word;
  }
}

// Work is counted, not timed: n - 1 pairs at the start and at most two after each of n - 1 merges.
TEST(BytePairEncoder, LongWordsTakeLinearlyManySteps) {
  TokenizerSpec spec;
  int32_t left = 0;
  spec.vocabulary.Add(0, "a");
  for (std::string text = "aa"; text.size() <= 1024; text += text) {  // a a, aa aa, ...
    const int32_t id = spec.vocabulary.size();
    spec.vocabulary.Add(id, text);
    spec.merges.push_back({left, left, id});
    left = id;
  }
  const BytePairEncoder encoder(spec);
  for (const int64_t n : {1000, 30000, 1 << 20}) {
    BytePairEncoder::Scratch scratch;
    std::vector<int32_t> ids;
    encoder.Encode(std::string(static_cast<size_t>(n), 'a'), scratch, ids);
    EXPECT_LE(scratch.num_steps(), 3 * n);
    int64_t total = 0;
    for (const int32_t id : ids) total += static_cast<int64_t>(spec.vocabulary.Text(id).size());
    EXPECT_EQ(total, n);
  }
}

// A whole megabyte without a boundary, of each kind: PCRE2 must take it too.
TEST(Tokenizer, HostileLongTexts) {
  const Tokenizer tokenizer = Golden();
  const size_t n = size_t{1} << 20;
  for (const std::string& unit :
       {std::string("a"), std::string(" "), std::string("\n"), std::string("."), std::string("7"),
        std::string("\xC3\xA9"), std::string("'s"), std::string(" \n"), std::string("<|endoftext|"),
        Utf8({0x301}), Utf8({0x4E00}), Utf8({0x1F30A})}) {
    std::string text;
    while (text.size() < n) text += unit;
    EXPECT_EQ(tokenizer.DecodeBytes(tokenizer.Encode(text)), text) << unit;
  }
}

}  // namespace
}  // namespace sepia::data
