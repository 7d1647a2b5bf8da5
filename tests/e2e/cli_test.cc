// The command lines as a user meets them: help, tokenizer forms, samples, bad input.
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/e2e/sepia_process.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;
using Words = std::vector<std::string>;
using nlohmann::json;

TEST(Help, EveryCommandHasAnExample) {
  const std::vector<Words> commands = {{},
                                       {"train"},
                                       {"check"},
                                       {"plan"},
                                       {"explain-config"},
                                       {"report"},
                                       {"doctor"},
                                       {"tokenizer"},
                                       {"tokenizer", "train"},
                                       {"tokenizer", "encode"},
                                       {"tokenizer", "decode"},
                                       {"tokenize"},
                                       {"data"},
                                       {"data", "inspect"},
                                       {"data", "maps"},
                                       {"data", "verify"},
                                       {"probe"},
                                       {"generate"},
                                       {"eval"},
                                       {"convert"},
                                       {"checkpoint"},
                                       {"checkpoint", "inspect"},
                                       {"checkpoint", "verify"},
                                       {"checkpoint", "diff"},
                                       {"bench"},
                                       {"bench", "attention"},
                                       {"bench", "allreduce"},
                                       {"bench", "reduce_scatter"},
                                       {"bench", "all_gather"},
                                       {"bench", "gemm"},
                                       {"bench", "roofline"},
                                       {"bench", "step"},
                                       {"bench", "tokenizer"}};
  for (Words words : commands) {
    words.push_back("--help");
    const ProcessResult result = RunSepia(words);
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("Example")) << words[0];
    EXPECT_THAT(result.output, HasSubstr(" sepia ")) << words[0];
  }
}

// The ids are GPT-NeoX-20B's, as Hugging Face tokenizers gives them.
TEST(Tokenizer, FormsAgree) {
  SEPIA_SHARED_OR_SKIP(tokenizer, "data/20B_tokenizer.json");
  const TempDir dir;
  const std::string text = "Hello, world";
  const Words encode = {"tokenizer", "encode", "--tokenizer", tokenizer};
  const auto with = [&](Words more) {
    Words words = encode;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  EXPECT_EQ(RunSepia(encode, {.input = text + "\n"}).output, "[12092,13,1533]\n");
  EXPECT_EQ(
      RunSepia(with({"--jsonl"}), {.input = "{\"text\": \"Hello, world\"}\n{\"text\":\"\"}\n"})
          .output,
      "[12092,13,1533]\n[]\n");
  WriteFileAtomic(dir.File("text"), text);
  const ProcessResult file =
      RunSepia(with({"--file", dir.File("text"), "--out", dir.File("ids.u16")}));
  EXPECT_EQ(file.code, 0) << file.output;
  // Little-endian uint16.
  EXPECT_EQ(ReadFile(dir.File("ids.u16")), std::string("\x3c\x2f\x0d\x00\xfd\x05", 6));
  const ProcessResult decoded = RunSepia({"tokenizer", "decode", "--tokenizer", tokenizer},
                                         {.input = "[12092,13,1533]\n[]\n"});
  EXPECT_EQ(decoded.output, "\"Hello, world\"\n\"\"\n");
}

// The tokens of an .npy file of int32, behind its header.
std::string NpyBytes(const std::string& path) {
  const std::string content = ReadFile(path);
  const auto low = static_cast<unsigned char>(content.at(8));
  const auto high = static_cast<unsigned char>(content.at(9));
  return content.substr(10 + size_t{low} + 256 * size_t{high});
}

// GPT-NeoX's own batches: axes [rank, step, accumulation step, row, T + 1].
TEST(DataInspect, EqualsNeox) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  const TempDir dir;
  WriteFileAtomic(dir.File("run.textproto"),
                  fmt::format(R"(model {{ preset: "pythia-14m" }}
data {{ source {{ prefix: "{}/datasets/docs_text_document" weight: 1 }} split: "969,30,1"
       sequence_length: 128 cache_dir: "{}" }}
batch {{ global: 8 micro: 2 }} schedule {{ total_steps: 300 }} eval {{ every_steps: 100 steps: 5 }}
seed: 1234 run_dir: "{}"
)",
                              fixtures, dir.File("maps"), dir.File("run")));
  std::filesystem::create_directory(dir.File("maps"));
  std::string tokens;
  for (const int rank : {0, 1}) {
    const ProcessResult result =
        RunSepia({"data", "inspect", dir.File("run.textproto"), "--step", "150", "--steps", "6",
                  "--rank", std::to_string(rank), "--ranks", "2"});
    ASSERT_EQ(result.code, 0) << result.output;
    int lines = 0;
    std::istringstream output(result.output);
    for (std::string line; std::getline(output, line);) {
      if (line[0] != '{') continue;  // remarks on stderr
      const json sample = json::parse(line);
      EXPECT_EQ(sample["step"], 150 + lines / 4);
      EXPECT_EQ(sample["rank"], rank);
      EXPECT_EQ(sample["micro"], lines / 2 % 2);
      EXPECT_EQ(sample["row"], lines % 2);
      EXPECT_EQ(sample["sha256"].get<std::string>().size(), 64);
      for (const int32_t id : sample["tokens"]) {
        tokens.append(reinterpret_cast<const char*>(&id), sizeof(id));
      }
      ++lines;
    }
    EXPECT_EQ(lines, 24);
  }
  EXPECT_TRUE(tokens == NpyBytes(fixtures + "/runs/dp2_micro2_gas2_from150.npy"));
}

// Keys that outside programs read.
TEST(Bench, PrintsItsKeys) {
  const std::vector<std::pair<Words, Words>> benches = {
      {{"step", "--model", "pythia-14m", "--seq", "32", "--steps", "1", "--dtype", "bf16",
        "--attention", "sep", "--window", "8", "--full-layers", "0,-1", "--threads", "2"},
       {"median_s", "tokens_per_s", "fwd_s", "bwd_s", "opt_s", "peak_rss_bytes", "mfu",
        "gemm_peak_gflops", "planned_bytes", "measured_growth_bytes"}},
      {{"attention", "--kind", "sep", "--seq", "64", "--heads", "1", "--head-dim", "64", "--batch",
        "1", "--window", "8", "--density", "0.16", "--dtype", "bf16", "--threads", "2"},
       {"fwd_s", "bwd_s", "visited_pairs", "gflops_visited", "gflops_causal", "peak_share"}},
      {{"gemm", "--m", "32", "--n", "32", "--k", "32"},
       {"gflops", "bwd_gflops", "peak_gflops", "peak_share"}}};
  for (const auto& [options, keys] : benches) {
    Words words = {"bench"};
    words.insert(words.end(), options.begin(), options.end());
    const ProcessResult result = RunSepia(words);
    ASSERT_EQ(result.code, 0) << result.output;
    const json line = json::parse(result.output.substr(result.output.find('{')));
    for (const std::string& key : keys) {
      ASSERT_TRUE(line.contains(key)) << key;
      EXPECT_GT(line[key].get<double>(), 0) << key;
    }
  }
}

std::vector<json> JsonLines(const std::string& output) {
  std::vector<json> lines;
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) {
    if (line[0] == '{') lines.push_back(json::parse(line));
  }
  return lines;
}

TEST(Bench, ListsRunEveryCombination) {
  const ProcessResult attention =
      RunSepia({"bench", "attention", "--kind", "sep,full", "--dtype", "fp32,bf16", "--threads",
                "1,2", "--seq", "33", "--heads", "1", "--head-dim", "8", "--repeats", "1"});
  EXPECT_EQ(attention.code, 0) << attention.output;
  EXPECT_EQ(JsonLines(attention.output).size(), 8);
  const ProcessResult gemm =
      RunSepia({"bench", "gemm", "--model", "pythia-14m", "--seq", "16", "--repeats", "1"});
  EXPECT_EQ(gemm.code, 0) << gemm.output;
  EXPECT_EQ(JsonLines(gemm.output).size(), 5);
}

TEST(Bench, PacedStepsWaitForLines) {
  const ProcessResult result = RunSepia({"bench", "step", "--model", "pythia-14m", "--seq", "16",
                                         "--attention", "sep,full", "--paced"},
                                        {.input = "\n\n"});
  ASSERT_EQ(result.code, 0) << result.output;
  const std::vector<json> lines = JsonLines(result.output);
  ASSERT_EQ(lines.size(), 5);
  EXPECT_EQ(lines[0]["ready"], 2);
  EXPECT_EQ(lines[1]["seconds"].size(), 2);
  EXPECT_EQ(lines[2]["seconds"].size(), 2);
  EXPECT_EQ(lines[3]["attention"], "sep");
  EXPECT_EQ(lines[4]["attention"], "full");
}

struct BadCase {
  Words words;
  int code;
  Words key_words;  // all are in the message
  std::string input = {};
};

void ExpectRefused(const BadCase& bad) {
  SCOPED_TRACE(fmt::format("sepia {}", fmt::join(bad.words, " ")));
  const ProcessResult result = RunSepia(bad.words, {.input = bad.input});
  EXPECT_EQ(result.code, bad.code) << result.output;
  for (const std::string& word : bad.key_words) EXPECT_THAT(result.output, HasSubstr(word));
}

// The line of `doctor` that says on how many threads and processors it runs.
std::string ThreadsLine(const std::string& proc_bind) {
  // Not as other tests start it: with a waiting policy the program would not start itself again.
  const ProcessResult result =
      RunSepia({"doctor", "--quick"},
               {.launcher = {"/usr/bin/env", "-u", "OMP_WAIT_POLICY", "OMP_PROC_BIND=" + proc_bind}});
  const size_t begin = result.output.find("threads ");
  if (begin == std::string::npos) return "none in: " + result.output;
  return result.output.substr(begin, result.output.find('\n', begin) - begin);
}

// Bound threads still use every processor: the main thread's own place is not all that is left to
// the program.
TEST(Threads, BindingKeepsAllProcessors) {
  const std::string unbound = ThreadsLine("false");
  EXPECT_THAT(unbound, HasSubstr("processors usable"));
  EXPECT_EQ(ThreadsLine("true"), unbound);
}

TEST(BadInput, CommandLines) {
  const std::vector<BadCase> cases = {
      {{}, 2, {"needs a command", "train"}},
      {{"tokenizr"}, 2, {"tokenizr", "did you mean \"tokenizer\""}},
      {{"bench", "nope"}, 2, {"nope", "attention, checkpoint, allreduce"}},
      {{"probe", "--modle", "x"}, 2, {"--modle", "did you mean \"--model\""}},
      {{"probe"}, 2, {"--model", "sepia probe --help"}},
      {{"train", "x", "--steps", "-1"}, 2, {"--steps", "-1 is too small"}},
      {{"train", "x", "--max-wall-time", "3x"}, 2, {"3x", "45m"}},
      {{"convert", "a", "b", "--to", "nope"},
       2,
       {"--to", "nope", "sepia,hf,sepllm-hf,gguf,neox,tensors"}},
      {{"bench", "attention", "--kind", "nope"}, 2, {"--kind", "fixed_stride,full,sep,streaming"}},
      {{"convert", "/absent", "b", "--to", "hf"}, 65, {"/absent", "does not exist"}},
      {{"train", "/absent.textproto"}, 2, {"/absent.textproto", "cannot read"}},
      {{"data", "verify", "/absent"}, 65, {"/absent.idx", "cannot read"}},
      {{"report", "/absent"}, 65, {"/absent", "cannot read"}},
      {{"tokenizer", "encode", "--tokenizer", "/absent"}, 65, {"/absent", "cannot read"}},
  };
  for (const BadCase& bad : cases) ExpectRefused(bad);
}

// A copy of the curve fixture's dataset and a config that trains on it.
class Curve {
 public:
  explicit Curve(const std::string& fixture) : fixture_(fixture) {
    Restore();
    WriteFileAtomic(config(), fmt::format(R"(init_from {{ path: "{}/init" }}
data {{ train {{ prefix: "{}" }} order: LINEAR sequence_length: 256 }}
batch {{ global: 1 micro: 1 }} optimizer {{ lr: 1e-3 }} schedule {{ total_steps: 4 }}
run_dir: "{}" threads: 1
)",
                                          fixture, prefix(), dir_.File("run")));
  }

  std::string File(const std::string& name) const { return dir_.File(name); }
  std::string config() const { return File("run.textproto"); }
  std::string prefix() const { return File("data"); }
  Words Train(const Words& more = {}) const {
    Words words = {"train", config(), "--steps", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  void Restore() const {
    for (const char* end : {".bin", ".idx"}) {
      WriteFileAtomic(prefix() + end, ReadFile(fixture_ + "/data" + end));
    }
  }
  void Truncate(const std::string& end, uintmax_t bytes) const {
    std::filesystem::resize_file(prefix() + end, bytes);
  }
  void Overwrite(const std::string& end, int64_t offset, const std::string& bytes) const {
    std::fstream file(prefix() + end, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(offset);
    file << bytes;
  }

 private:
  std::string fixture_;
  TempDir dir_;
};

TEST(BadInput, Configs) {
  SEPIA_SHARED_OR_SKIP(fixture, "fixtures/curves");
  const Curve curve(fixture);
  const std::vector<BadCase> cases = {
      {curve.Train({"--set", "optimiser.lr=1"}), 2, {"optimiser", "did you mean \"optimizer\""}},
      {curve.Train({"--set", "optimizer.lr=abc"}), 2, {"column 14", "expected a number"}},
      {curve.Train({"--set", "data.sequence_length=512"}), 2, {"512", "max_positions 256"}},
      {curve.Train({"--set", "model.vocab_size=128"}), 2, {"128 disagrees with 1024"}},
      {curve.Train({"--set", "batch.global=3", "--set", "batch.micro=2"}), 2, {"not a multiple"}},
      {curve.Train({"--set", "parallel.tensor=2"}), 2, {"parallel.tensor", "does not divide"}},
      {curve.Train({"--set", "device=CUDA"}), 78, {"CUDA", "device=CPU"}},
      {curve.Train({"--run-dir", "/proc/absent"}), 73, {"/proc/absent", "cannot write"}},
      {curve.Train({"--run-dir", curve.config()}), 73, {curve.config(), "Not a directory"}},
  };
  for (const BadCase& bad : cases) ExpectRefused(bad);
  EXPECT_FALSE(FileExists(curve.File("run")));

  // All faults at once, each with its place.
  WriteFileAtomic(curve.File("bad.textproto"),
                  "optimiser { lr: 1 }\nmodel { preset: \"pythia-9m\" atention { } }\nseed: -1\n");
  ExpectRefused({{"train", curve.File("bad.textproto")},
                 2,
                 {"bad.textproto:1:1", "bad.textproto:2:9", "bad.textproto:2:29",
                  "bad.textproto:3:1", "pythia-14m", "\"attention\""}});
}

TEST(BadInput, Datasets) {
  SEPIA_SHARED_OR_SKIP(fixture, "fixtures/curves");
  const Curve curve(fixture);
  const auto refused = [&](const Words& key_words) {
    ExpectRefused({curve.Train(), 65, key_words});
    curve.Restore();
  };
  std::filesystem::remove(curve.prefix() + ".bin");
  refused({"data.bin", "no such file", "check the prefix"});
  curve.Truncate(".bin", 0);
  refused({"reaches past the end of the .bin"});
  curve.Truncate(".bin", 1000);
  refused({"reaches past the end of the .bin (1000 bytes)"});
  std::filesystem::remove(curve.prefix() + ".idx");
  refused({"data.idx", "cannot read"});
  curve.Truncate(".idx", 1000);
  refused({"data.idx", "do not fit a file of 1000 bytes"});
  curve.Overwrite(".idx", 2, "\x07");
  refused({"data.idx: offset 0", "MMIDIDX"});
  curve.Overwrite(".bin", 100, "\xff\xff");
  refused({"data.bin: offset 100", "65535", "1024"});

  // A flip that the format cannot reveal, against a recorded digest.
  ASSERT_EQ(RunSepia({"data", "verify", curve.prefix(), "--write-digest"}).code, 0);
  curve.Overwrite(".bin", 100, "\xff\x02");  // an id of the vocabulary
  ExpectRefused({{"data", "verify", curve.prefix()}, 65, {"data.bin", "digest"}});
}

TEST(BadInput, TextsAndTokenizers) {
  SEPIA_SHARED_OR_SKIP(fixture, "fixtures/curves");
  const TempDir dir;
  const std::string good = fixture + "/tokenizer.json";
  WriteFileAtomic(dir.File("cut.json"), ReadFile(good).substr(0, 20000));
  WriteFileAtomic(dir.File("empty.json"), "");
  const std::string good_text = dir.File("good.txt");
  WriteFileAtomic(good_text, "some words, and some more words\n");
  WriteFileAtomic(dir.File("bad.txt"),
                  "good\nb\xff"
                  "d\n");
  const auto encode = [](const std::string& tokenizer) {
    return Words{"tokenizer", "encode", "--tokenizer", tokenizer};
  };
  const Words tokenize = {"tokenize", "--tokenizer",    good,
                          "--out",    dir.File("data"), dir.File("bad.txt")};
  const std::vector<BadCase> cases = {
      {encode(dir.File("cut.json")), 65, {"cut.json: offset 20", "damaged"}},
      {encode(dir.File("empty.json")), 65, {"empty.json", "damaged"}},
      {encode(good), 65, {"standard input:1", "not UTF-8", "--on-invalid-utf8"}, "a\xff\n"},
      {{"tokenizer", "decode", "--tokenizer", good},
       65,
       {"99999", "vocabulary of 1024"},
       "[99999]"},
      {{"tokenizer", "decode", "--tokenizer", good}, 65, {"standard input:1", "array"}, "x\n"},
      {tokenize, 65, {"bad.txt", "not UTF-8", "--on-invalid-utf8 replace"}},
      {{"tokenizer", "train", "--vocab-size", "300", "--out", "/absent/tokenizer.json", good_text},
       73,
       {"/absent/tokenizer.json", "cannot write", "create its folder first"}},
      {{"tokenizer", "train", "--vocab-size", "9", "--out", dir.File("new.json"), good_text},
       2,
       {"vocabulary of 9"}},
  };
  for (const BadCase& bad : cases) ExpectRefused(bad);
  EXPECT_FALSE(FileExists(dir.File("data.bin")));
  Words replaced = tokenize;
  replaced.insert(replaced.end(), {"--on-invalid-utf8", "replace"});
  EXPECT_EQ(RunSepia(replaced).code, 0);
}

}  // namespace
}  // namespace sepia::testing
