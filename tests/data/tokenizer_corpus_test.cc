// Corpora from files to documents and ids: formats, compression, order, errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/philox.h"
#include "data/indexed_dataset.h"
#include "data/tokenizer/corpus_tokenizer.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using ::testing::HasSubstr;
using Texts = std::vector<std::string>;

std::string Gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
  return out;
}

class Corpus : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& content) {
    File::Create(directory_.File(name)).Write(content);
    return directory_.File(name);
  }

  Texts Read(const std::vector<std::string>& paths, const CorpusOptions& options = {}) {
    CorpusReader reader(paths, options);
    Texts texts;
    CorpusChunk chunk;
    while (reader.NextChunk(chunk)) {
      for (RawDocument& document : chunk.documents) {
        if (auto text = DocumentText(std::move(document), options)) texts.push_back(*text);
      }
    }
    EXPECT_EQ(chunk.file_bytes, reader.total_file_bytes());
    return texts;
  }

  std::string Refusal(const std::string& path, const CorpusOptions& options = {}) {
    try {
      Read({path}, options);
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
      EXPECT_THAT(error.what(), HasSubstr(path));
      return error.what();
    }
    return "";
  }

  testing::TempDir directory_;
};

TEST_F(Corpus, TextFileIsADocument) {
  EXPECT_EQ(Read({Write("a.txt", "one\ntwo\r\n"), Write("b.txt", ""), Write("c.txt", "three")}),
            (Texts{"one\ntwo\r\n", "three"}));
}

TEST_F(Corpus, SeparatorCutsTextFiles) {
  const std::string path = Write("a.txt", "one--two----three--");
  EXPECT_EQ(Read({path}, {.document_separator = "--"}), (Texts{"one", "two", "", "three"}));
}

TEST_F(Corpus, SeparatorAcrossReads) {
  // Blocks have 64 KiB; the separator lies at every offset around their end.
  for (size_t length = (1 << 16) - 8; length <= (1 << 16) + 2; ++length) {
    const std::string first(length, 'x');
    const std::string path = Write("a.txt", first + "<cut>" + "yy");
    EXPECT_EQ(Read({path}, {.document_separator = "<cut>"}), (Texts{first, "yy"}));
  }
}

TEST_F(Corpus, JsonLines) {
  EXPECT_EQ(Read({Write("a.jsonl",
                        "{\"text\": \"one\\n\\u00e9\", \"meta\": {\"text\": \"no\", \"x\": [1]}}\n"
                        "\n  \r\n"
                        "{\"n\": null, \"text\": \"\"}\r\n"
                        "{\"list\": [{\"text\": 5}], \"text\": \"\\ud83c\\udf0a\"}")}),
            (Texts{"one\n\xC3\xA9", "", "\xF0\x9F\x8C\x8A"}));
  EXPECT_EQ(
      Read({Write("b.jsonl", "{\"text\": 1, \"content\": \"x\"}\n")}, {.json_key = "content"}),
      (Texts{"x"}));
}

TEST_F(Corpus, JsonErrorsNameTheLine) {
  const std::string good = "{\"text\": \"x\"}\n";
  EXPECT_THAT(Refusal(Write("a.jsonl", good + "{\"text\": 3}\n")), HasSubstr("a.jsonl:2"));
  EXPECT_THAT(Refusal(Write("b.jsonl", good + good + "{}\n")), HasSubstr("b.jsonl:3"));
  EXPECT_THAT(Refusal(Write("c.jsonl", good + "{\"text\": \"x\"")), HasSubstr("c.jsonl:2"));
  EXPECT_THAT(Refusal(Write("d.jsonl", "[1]\n")), HasSubstr("object"));
  EXPECT_THAT(Refusal(Write("e.jsonl", "\"text\"\n")), HasSubstr("object"));
  EXPECT_THAT(Refusal(Write("f.jsonl", "{\"text\":\"a\",\"text\":\"b\"}\n")), HasSubstr("twice"));
  EXPECT_THAT(Refusal(Write("g.jsonl", "{\"text\":{\"a\":\"b\"}}\n")), HasSubstr("string"));
  EXPECT_THAT(Refusal(Write("h.jsonl", "{\"text\":[\"b\"]}\n")), HasSubstr("string"));
  EXPECT_NE(Refusal(Write("i.jsonl", "7\n")), "");
  EXPECT_NE(Refusal(Write("j.jsonl", "{\"text\":\"\\ud800\"}\n")), "");
  EXPECT_NE(Refusal(Write("k.jsonl", std::string(100000, '['))), "");
}

TEST_F(Corpus, InvalidUtf8IsFoundOrReplaced) {
  const std::string text = Write("a.txt",
                                 "ab\xFF"
                                 "c");
  EXPECT_THAT(Refusal(text), HasSubstr("offset 2"));
  EXPECT_EQ(Read({text}, {.on_invalid_utf8 = OnInvalidUtf8::kReplace}), (Texts{"ab\xEF\xBF\xBD"
                                                                               "c"}));
  const std::string lines = Write("a.jsonl", "{\"text\":\"x\"}\n{\"text\":\"\xC3\"}\n");
  EXPECT_THAT(Refusal(lines), HasSubstr("a.jsonl:2"));
  EXPECT_THAT(Refusal(lines), HasSubstr("offset 22"));
  EXPECT_EQ(Read({lines}, {.on_invalid_utf8 = OnInvalidUtf8::kReplace}),
            (Texts{"x", "\xEF\xBF\xBD"}));
}

TEST_F(Corpus, CompressedFiles) {
  const std::string lines = "{\"text\":\"one\"}\n{\"text\":\"two\"}\n";
  const Texts expected = {"one", "two"};
  EXPECT_EQ(Read({Write("a.jsonl.gz", Gzip(lines))}), expected);
  EXPECT_EQ(Read({Write("a.jsonl.zst", Zstd(lines))}), expected);
  // Several members or frames in one file, cut inside a line.
  EXPECT_EQ(Read({Write("b.jsonl.gz", Gzip(lines.substr(0, 20)) + Gzip(lines.substr(20)))}),
            expected);
  EXPECT_EQ(
      Read({Write("b.jsonl.zst", Zstd(lines.substr(0, 20)) + Zstd("") + Zstd(lines.substr(20)))}),
      expected);
  std::string large;
  const PhiloxStream random(8, "large");
  for (uint64_t i = 0; i < 700000; ++i)
    large.push_back(static_cast<char>('a' + random.Bits(i) % 26));
  EXPECT_EQ(Read({Write("l.txt.gz", Gzip(large)), Write("l.txt.zst", Zstd(large))}),
            (Texts{large, large}));
}

TEST_F(Corpus, DamagedCompressedFiles) {
  const std::string text(100000, 'x');
  const std::string gzip = Gzip(text + "end");
  const std::string zstd = Zstd(text + "end");
  for (size_t i = 1; i < gzip.size(); ++i) {
    EXPECT_NE(Refusal(Write("a.txt.gz", gzip.substr(0, i))), "") << i;
  }
  for (size_t i = 1; i < zstd.size(); ++i) {
    EXPECT_NE(Refusal(Write("a.txt.zst", zstd.substr(0, i))), "") << i;
  }
  EXPECT_NE(Refusal(Write("a.txt.gz", "not gzip at all")), "");
  EXPECT_NE(Refusal(Write("a.txt.zst", "not zstd at all")), "");
  for (size_t i = 0; i < gzip.size(); ++i) {
    std::string damaged = gzip;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    Refusal(Write("a.txt.gz", damaged));  // the name and time fields may change unnoticed
  }
}

// 256 MiB of one letter in 8 KiB: refused at the limit, without holding it.
TEST_F(Corpus, DecompressionBomb) {
  const std::string block = Zstd(std::string(size_t{1} << 20, 'x'));
  std::string bomb;
  for (int i = 0; i < 256; ++i) bomb += block;
  const CorpusOptions options{.max_document_bytes = 1 << 20};
  EXPECT_THAT(Refusal(Write("bomb.txt.zst", bomb), options), HasSubstr("1048576"));
  EXPECT_THAT(Refusal(Write("bomb.jsonl.zst", bomb), options), HasSubstr("1048576"));
}

TEST_F(Corpus, NamesAndMissingFiles) {
  EXPECT_THROW(CorpusReader({}, {}), UserError);
  EXPECT_THROW(CorpusReader({Write("a.pdf", "x")}, {}), UserError);
  EXPECT_THROW(CorpusReader({directory_.File("none.txt")}, {}), UserError);
}

class TokenizeCorpusTest : public Corpus {
 protected:
  struct Result {
    std::vector<std::vector<int32_t>> documents;
    CorpusProgress progress;
  };

  Result Tokenize(const std::vector<std::string>& paths, const TokenizeOptions& options) {
    CorpusReader reader(paths, {});
    Result result;
    result.progress = TokenizeCorpus(
        tokenizer_, reader, options,
        [&](std::span<const int32_t> ids) {
          result.documents.emplace_back(ids.begin(), ids.end());
        },
        [](const CorpusProgress&) {});
    return result;
  }

  Tokenizer tokenizer_ = Tokenizer::Load(testing::GoldenPath("tokenizer/tokenizer.json"));
};

TEST_F(TokenizeCorpusTest, OrderDoesNotDependOnTheNumberOfThreads) {
  std::string lines;
  const PhiloxStream random(9, "lines");
  for (uint64_t i = 0; i < 4000; ++i) {
    // Some documents are much longer than others, so that threads overtake each other.
    const uint32_t words = random.Bits(i) % 50 == 0 ? 20000 : random.Bits(i) % 60;
    std::string text = std::to_string(i);
    for (uint32_t w = 0; w < words; ++w) text += w % 7 == 0 ? " river" : " time";
    lines += "{\"text\":\"" + text + "\"}\n";
  }
  const std::string path = Write("a.jsonl", lines);
  const Result one = Tokenize({path, path}, {.num_threads = 1, .eod_id = 0});
  EXPECT_EQ(one.documents.size(), 8000u);
  EXPECT_EQ(one.documents[17], one.documents[4017]);
  std::vector<int32_t> expected = tokenizer_.Encode("0");
  expected.push_back(0);
  EXPECT_EQ(std::vector<int32_t>(one.documents[0].begin(), one.documents[0].begin() + 1),
            std::vector<int32_t>(expected.begin(), expected.begin() + 1));
  for (const int threads : {2, 3, 8}) {
    const Result many = Tokenize({path, path}, {.num_threads = threads, .eod_id = 0});
    EXPECT_EQ(many.documents, one.documents) << threads;
    EXPECT_EQ(many.progress.num_tokens, one.progress.num_tokens);
    EXPECT_EQ(many.progress.text_bytes, one.progress.text_bytes);
  }
}

TEST_F(TokenizeCorpusTest, TheFirstErrorIsReportedWhateverTheNumberOfThreads) {
  std::string lines;
  for (int i = 0; i < 60000; ++i) {
    lines += i >= 30000 && i % 1000 == 0 ? "{\"text\":7}\n" : "{\"text\":\"river and time\"}\n";
  }
  const std::string path = Write("a.jsonl", lines);
  for (const int threads : {1, 2, 4}) {
    try {
      Tokenize({path}, {.num_threads = threads});
      FAIL() << "no error";
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr("a.jsonl:30001:")) << threads;
    }
  }
}

TEST_F(TokenizeCorpusTest, EmptyDocuments) {
  const std::string path =
      Write("a.jsonl", "{\"text\":\"\"}\n\n{\"text\":\"a\"}\n{\"text\":\"\"}\n");
  using Documents = std::vector<std::vector<int32_t>>;
  const std::vector<int32_t> a = tokenizer_.Encode("a");
  EXPECT_EQ(Tokenize({path}, {}).documents, (Documents{a}));
  EXPECT_EQ(Tokenize({path}, {}).progress.num_empty, 2);
  EXPECT_EQ(Tokenize({path}, {.eod_id = 0}).documents, (Documents{{0}, {a[0], 0}, {0}}));
  EXPECT_EQ(Tokenize({path}, {.eod_id = 0, .drop_empty = true}).documents, (Documents{{a[0], 0}}));
}

// Byte for byte what GPT-NeoX's preprocessor and builder made of the same lines
// (../shared/fixtures/data/README.md, section 1).
TEST(TokenizeDataset, EqualsGptNeoxs) {
  SEPIA_SHARED_OR_SKIP(tokenizer_path, "data/20B_tokenizer.json");
  SEPIA_SHARED_OR_SKIP(datasets, "fixtures/data/datasets");
  const testing::TempDir directory;
  const Tokenizer tokenizer = Tokenizer::Load(tokenizer_path);
  CorpusReader reader({datasets + "/docs.jsonl"}, {});
  IndexedDatasetWriter writer(directory.File("out"), TokenDTypeFor(tokenizer.vocab_size()));
  TokenizeCorpus(
      tokenizer, reader, {.num_threads = 2, .eod_id = 0},
      [&](std::span<const int32_t> ids) { writer.AddDocument(ids); }, [](const CorpusProgress&) {});
  writer.Finish();
  for (const char* extension : {".bin", ".idx"}) {
    EXPECT_TRUE(ReadFile(directory.File("out") + extension) ==
                ReadFile(datasets + "/docs_text_document" + extension))
        << extension;
  }
}

}  // namespace
}  // namespace sepia::data
