// Damaged and hostile files with what must happen to each: a set in every clone
// (tests/golden/checkpoint/bad), and all of fixtures/checkpoints/bad.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/import/hf_config.h"
#include "checkpoint/json.h"
#include "checkpoint/model_source.h"
#include "model/model_config.pb.h"
#include "tests/checkpoint/memory_limit.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::testing::HasSubstr;

struct Row {
  std::string file;
  std::string must;
};

std::vector<Row> ReadRows(const std::string& folder) {
  std::ifstream in(folder + "/expected.jsonl");
  std::vector<Row> rows;
  for (std::string line; std::getline(in, line);) {
    const JsonObject object = ParseJsonObject(line, "expected.jsonl");
    rows.push_back(
        {*FindKey(object, "file")->As<std::string>(), *FindKey(object, "must")->As<std::string>()});
  }
  return rows;
}

// Reads everything that a row names, as a model where it is one.
void Load(const std::string& folder, const std::string& file) {
  const std::string path = folder + "/" + file;
  if (file.starts_with("config/")) {
    config::ModelConfig config;
    ReadHfConfig(path, &config);
    return;
  }
  const ::sepia::testing::TempDir dir;
  std::string model = path;
  if (!std::filesystem::is_directory(path)) {
    model = dir.path();
    std::filesystem::copy(folder + "/good/config.json", dir.File("config.json"));
    std::filesystem::copy(
        path, dir.File(file.ends_with(".safetensors") ? "model.safetensors" : "pytorch_model.bin"));
  }
  const auto source = OpenModelSource(model);
  for (const SourceTensor& tensor : source->tensors()) {
    const OwnedTensor values(DType::kFloat32, tensor.shape);
    source->ReadTensor(tensor.name, values);
  }
}

// "" when it loads.
std::string Refusal(const std::string& folder, const std::string& file) {
  try {
    Load(folder, file);
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData) << file;
    return error.what();
  }
  return "";
}

class HostileFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([this](LogLevel, std::string_view message) { log_.append(message); });
  }
  void TearDown() override { SetLogSink(nullptr); }

  std::string log_;
};

// Loads every row's file; returns how many there were.
int CheckRows(const std::string& folder) {
  int checked = 0;
  for (const Row& row : ReadRows(folder)) {
    const std::string refusal = Refusal(folder, row.file);
    ++checked;
    if (row.must.starts_with("refuse:")) {
      EXPECT_NE(refusal, "") << row.file << " must be refused: " << row.must;
    } else if (row.must.starts_with("accept")) {
      EXPECT_EQ(refusal, "") << row.file;
    }
  }
  return checked;
}

TEST_F(HostileFilesTest, EveryRowOfTheFixturesBehavesAsItSays) {
  SEPIA_SHARED_OR_SKIP(folder, "fixtures/checkpoints/bad");
  EXPECT_GT(CheckRows(folder), 300);
}

TEST_F(HostileFilesTest, EveryGoldenRowBehavesAsItSays) {
  EXPECT_EQ(CheckRows(::sepia::testing::GoldenPath("checkpoint/bad")), 123);
}

// The config rows are "refuse: key"; the message names that key.
TEST_F(HostileFilesTest, ConfigMessagesNameTheKey) {
  const std::string folder = ::sepia::testing::GoldenPath("checkpoint/bad");
  for (const Row& row : ReadRows(folder)) {
    if (!row.file.starts_with("config/") || !row.must.starts_with("refuse: ")) continue;
    const std::string key = row.must.substr(8, row.must.find(' ', 8) - 8);
    if (key.find('_') == std::string::npos) continue;  // a sentence, not a key
    EXPECT_THAT(Refusal(folder, row.file), HasSubstr(key)) << row.file;
  }
  EXPECT_THAT(Refusal(folder, "config/rope_scaling.json"), HasSubstr("rope scaling"));
  EXPECT_THAT(Refusal(folder, "config/deep.json"), HasSubstr("nested deeper"));
  EXPECT_THAT(Refusal(folder, "config/duplicate_key.json"), HasSubstr("twice"));
  EXPECT_THAT(Refusal(folder, "config/heads_not_dividing.json"), HasSubstr("does not divide"));
  // "refuse or support explicitly": a tied head is supported.
  EXPECT_EQ(Refusal(folder, "config/tied.json"), "");
}

TEST_F(HostileFilesTest, ModelMessagesNameTensorAndFile) {
  const std::string folder = ::sepia::testing::GoldenPath("checkpoint/bad");
  const std::pair<const char*, const char*> cases[] = {
      {"model/missing_tensor", "gpt_neox.layers.0.attention.query_key_value.weight"},
      {"model/extra_tensor", "gpt_neox.layers.7.mlp.dense_h_to_4h.bias"},
      {"model/transposed", "it is transposed"},
      {"model/vocab_mismatch", "embed"},
      {"model/mixed_prefix", "mixed name prefixes"},
      {"sharded/missing_shard", "model-00002-of-00002.safetensors is missing"},
      {"sharded/dotdot", "plain file names"},
      {"sharded/absolute", "plain file names"},
      {"sharded/subdir", "plain file names"},
      {"sharded/empty_name", "plain file names"},
      {"sharded/nul_in_name", "plain file names"},
      {"sharded/dot", "plain file names"},
      {"sharded/tensor_not_in_shard", "does not place here"},
      {"sharded/tensor_in_two_shards", "does not place here"},
      {"sharded/total_size_wrong", "total_size"},
      {"sharded/index_not_strings", "instead of a file name"},
  };
  for (const auto& [file, message] : cases) {
    EXPECT_THAT(Refusal(folder, file), HasSubstr(message)) << file;
  }
}

// A refusal without the places where this run keeps its files, in printable characters.
std::string Reason(const std::string& folder, const std::string& file) {
  std::string message = std::regex_replace(Refusal(folder, file),
                                           std::regex("/[^ :']*/sepia-test-[A-Za-z0-9]{6}/?"), "");
  for (size_t at = 0; (at = message.find(folder + "/")) != std::string::npos;) {
    message.erase(at, folder.size() + 1);
  }
  std::replace_if(
      message.begin(), message.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return message;
}

// tests/golden/checkpoint/refusals.txt: "file<tab>message" for every file of the fixtures that must
// be refused, each read beside the reason that fixtures/checkpoints/bad/expected.jsonl gives.
TEST_F(HostileFilesTest, EveryRefusalHasItsReason) {
  SEPIA_SHARED_OR_SKIP(folder, "fixtures/checkpoints/bad");
  std::map<std::string, std::string> reasons;
  std::ifstream in(::sepia::testing::GoldenPath("checkpoint/refusals.txt"));
  for (std::string line; std::getline(in, line);) {
    const size_t tab = line.find('\t');
    reasons[line.substr(0, tab)] = line.substr(tab + 1);
  }
  EXPECT_GT(reasons.size(), 300u);
  for (const Row& row : ReadRows(folder)) {
    if (row.must.starts_with("refuse:")) {
      EXPECT_EQ(Reason(folder, row.file), reasons[row.file]) << row.file << ": " << row.must;
    }
  }
}

// Writes that table anew, with the reason that is asked for behind each line, to be read.
TEST_F(HostileFilesTest, DISABLED_WriteRefusals) {
  SEPIA_SHARED_OR_SKIP(folder, "fixtures/checkpoints/bad");
  for (const Row& row : ReadRows(folder)) {
    if (!row.must.starts_with("refuse:")) continue;
    std::printf("%s\t%s\t%s\n", row.file.c_str(), Reason(folder, row.file).c_str(),
                row.must.c_str());
  }
}

// Reasons, not just refusals: the first words of each row's "must" that the file is there for.
TEST_F(HostileFilesTest, TorchMessagesSayWhatIsWrong) {
  SEPIA_SHARED_OR_SKIP(folder, "fixtures/checkpoints/bad");
  const std::pair<const char*, const char*> cases[] = {
      {"pickle/os_system_alone.bin", "os.system, which is forbidden"},
      {"pickle/dotted_name_alone.bin", "torch._utils.sys.modules, which is forbidden"},
      {"pickle/nested_object_nonzip.bin", "posix.system, which is forbidden"},
      {"pickle/inst_opcode.bin", "has no place in a checkpoint"},
      {"pickle/reduce_not_callable.bin", "REDUCE calls"},
      {"pickle/build_setstate.bin", "forbidden"},
      {"pickle/bomb_deep_lists.bin", "too many values"},
      {"pickle/bomb_self_cycle.bin", "contains itself"},
      {"pickle/bomb_memo_get_missing.bin", "does not exist"},
      {"pickle/bomb_memo_index_4g.bin", "memo index"},
      {"pickle/bomb_binunicode_4g.bin", "a string of"},
      {"pickle/bomb_bad_utf8_string.bin", "not UTF-8"},
      {"pickle/proto_99.bin", "protocol 99"},
      {"pickle/trailing_after_stop.bin", "goes on after its end"},
      {"pickle/tensor_stride_overflow_wraps.bin", "overflows"},
      {"pickle/tensor_expanded_huge.bin", "zero strides"},
      {"pickle/tensor_offset_past_end.bin", "leaves its storage"},
      {"pickle/tensor_key_traversal.bin", "bad storage key"},
      {"pickle/duplicate_dict_key.bin", "appears twice"},
      {"zip/multi_disk.bin", "multi-disk"},
      {"zip/wrong_crc_tensor.bin", "has CRC-32"},
      {"zip/path_traversal_entry.bin", "bad entry name"},
      {"zip/two_prefixes.bin", "more than one prefix"},
      {"zip/deflated_pickle.bin", "compressed member"},
      {"zip/encrypted_flag.bin", "encrypted"},
      {"zip/local_offset_overlap.bin", "differ"},
      {"zip/torchscript.bin", "TorchScript"},
      {"zip/byteorder_big.bin", "big-endian"},
      {"zip/html_page.bin", "not a torch file"},
      {"nonzip/tar_container.bin", "tar container"},
      {"nonzip/big_endian.bin", "big-endian"},
      {"nonzip/trailing.bin", "bytes follow"},
  };
  for (const auto& [file, message] : cases) {
    EXPECT_THAT(Refusal(folder, file), HasSubstr(message)) << file;
  }
  EXPECT_FALSE(FileExists("SEPIA_PWNED"));
}

// The promise of SECURITY.md: 16 MiB + 4 x the file's size. Its mapping and its copy come on top.
TEST_F(HostileFilesTest, NoFileTakesMoreMemoryThanPromised) {
  SEPIA_SHARED_OR_SKIP(folder, "fixtures/checkpoints/bad");
  for (const Row& row : ReadRows(folder)) {
    const std::string path = folder + "/" + row.file;
    if (std::filesystem::is_directory(path)) continue;
    const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
    const auto outcome = testing::RunWithMemoryLimit((16 << 20) + 5 * size, [&] {
      try {
        Load(folder, row.file);
      } catch (const UserError&) {
      }
    });
    if (outcome == testing::LimitedOutcome::kUnavailable) GTEST_SKIP() << "not with sanitizers";
    EXPECT_EQ(outcome, testing::LimitedOutcome::kReturned) << row.file;
  }
}

TEST_F(HostileFilesTest, NonFiniteValuesAreReportedNotRefused) {
  const std::string folder = ::sepia::testing::GoldenPath("checkpoint/bad");
  EXPECT_EQ(Refusal(folder, "model/nan_and_inf"), "");
  EXPECT_THAT(log_, HasSubstr("1 NaN"));
  EXPECT_THAT(log_, HasSubstr("1 infinite"));
}

}  // namespace
}  // namespace sepia::checkpoint
