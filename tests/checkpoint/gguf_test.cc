// GGUF against files of the gguf package (fixtures/checkpoints/gguf), and hostile ones.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/comparison.h"
#include "checkpoint/export/gguf.h"
#include "checkpoint/gguf/gguf_file.h"
#include "checkpoint/json.h"
#include "model/model_config.pb.h"
#include "tests/checkpoint/expect_tensors.h"
#include "tests/checkpoint/file_damage.h"
#include "tests/checkpoint/memory_limit.h"
#include "tests/checkpoint/tiny_checkpoint.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::sepia::testing::TempDir;
using ::testing::HasSubstr;

constexpr const char* kFolder = "fixtures/checkpoints";

// The dummy tokenizer that the fixtures were written with: two control tokens, t2 ... t99, and
// pads.
GgufTokenizer FixtureTokenizer() {
  GgufTokenizer tokenizer;
  for (int i = 0; i < 128; ++i) {
    const auto type = i < 2     ? GgufTokenType::kControl
                      : i < 100 ? GgufTokenType::kNormal
                                : GgufTokenType::kUnused;
    tokenizer.tokens.push_back({fmt::format("t{}", i), type});
  }
  tokenizer.merges = {"t 2", "t 3"};
  return tokenizer;
}

TEST(GgufTest, TensorsAndKeysEqualTheReferenceFile) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  const TempDir dir;
  const auto source = OpenModelSource(root + "/hf_safetensors/t/fp32");
  for (const auto& [name, dtype] :
       {std::pair("t-f32.gguf", DType::kFloat32), std::pair("t-f16.gguf", DType::kFloat16)}) {
    const std::string path = dir.File(name);
    ExportGguf(*source, path,
               {.dtype = dtype, .name = "sepia-fixture-t", .tokenizer = FixtureTokenizer()});
    const GgufFile ours(path);
    const GgufFile reference(root + "/gguf/" + name);
    ASSERT_EQ(ours.tensors().size(), reference.tensors().size());
    for (const GgufTensor& wanted : reference.tensors()) {
      const GgufTensor* tensor = ours.FindTensor(wanted.name);
      ASSERT_NE(tensor, nullptr) << wanted.name;
      EXPECT_EQ(tensor->shape, wanted.shape);
      EXPECT_EQ(tensor->dtype, wanted.dtype);
      EXPECT_TRUE(std::equal(tensor->bytes.begin(), tensor->bytes.end(), wanted.bytes.begin(),
                             wanted.bytes.end()))
          << wanted.name;
    }
    const JsonObject spec = ReadJsonObject(root + "/gguf/gptneox_spec.json");
    const auto& models = *FindKey(spec, "models")->As<JsonObject>();
    const auto& fields =
        *FindKey(*FindKey(models, name)->As<JsonObject>(), "fields")->As<JsonObject>();
    for (const auto& [key, field] : fields) {
      if (key.starts_with("GGUF.")) continue;  // the header
      const GgufValue* wanted = reference.Find(key);
      const GgufValue* found = ours.Find(key);
      ASSERT_TRUE(wanted != nullptr && found != nullptr) << key;
      ASSERT_EQ(found->index(), wanted->index()) << key;
      if (const auto* array = std::get_if<GgufArray>(wanted)) {
        EXPECT_EQ(std::get<GgufArray>(*found).count, array->count) << key;
        EXPECT_EQ(std::get<GgufArray>(*found).type, array->type) << key;
      } else if (const auto* text = std::get_if<std::string_view>(wanted)) {
        EXPECT_EQ(std::get<std::string_view>(*found), *text) << key;
      } else if (const auto* integer = std::get_if<int64_t>(wanted)) {
        EXPECT_EQ(std::get<int64_t>(*found), *integer) << key;
      } else if (const auto* number = std::get_if<double>(wanted)) {
        EXPECT_EQ(std::get<double>(*found), *number) << key;
      } else {
        EXPECT_EQ(std::get<bool>(*found), std::get<bool>(*wanted)) << key;
      }
    }
  }
}

TEST(GgufTest, ReferenceFilesAreReadBitForBit) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  testing::ExpectTensors(*OpenModelSource(root + "/gguf/t-f32.gguf"),
                         root + "/hf_safetensors/t/fp32/model.safetensors");
}

TEST(GgufTest, PartsOfQkvEqualTheWhole) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  const auto hf = OpenModelSource(root + "/hf_safetensors/t/fp32");
  const auto gguf = OpenModelSource(root + "/gguf/t-f32.gguf");
  const std::string name = "gpt_neox.layers.1.attention.query_key_value.weight";
  for (const Rectangle& part : {Rectangle{{3, 5}, {70, 11}}, Rectangle{{95, 0}, {1, 32}},
                                Rectangle{{0, 31}, {96, 1}}, Rectangle{{2, 3}, {0, 4}}}) {
    std::vector<float> a(static_cast<size_t>(part.num_elements()));
    std::vector<float> b(a.size());
    hf->ReadPart(name, part, TensorView::Of(std::span(a), part.extent));
    gguf->ReadPart(name, part, TensorView::Of(std::span(b), part.extent));
    EXPECT_EQ(a, b);
  }
}

using TinyGgufTest = testing::TinySourceTest;

TEST_F(TinyGgufTest, ExportImportExportIsStable) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const std::string name(DTypeName(dtype));
    ExportGguf(*tiny_, dir_.File(name + "1"), {.dtype = dtype, .name = "tiny", .tokenizer = {}});
    const auto first = OpenModelSource(dir_.File(name + "1"));
    config::ModelConfig config;
    first->FillModelConfig(&config);
    EXPECT_EQ(config.attention().kind(), config::AttentionConfig::SEP);
    EXPECT_EQ(config.attention().window(), 4);
    ExportGguf(*first, dir_.File(name + "2"), {.dtype = dtype, .name = "tiny", .tokenizer = {}});
    EXPECT_EQ(ReadFile(dir_.File(name + "1")), ReadFile(dir_.File(name + "2")));
  }
  EXPECT_TRUE(testing::HasTinyState(*OpenModelSource(dir_.File("f321")), 7));
}

TEST_F(TinyGgufTest, SparseAttentionIsSaidInTheFileAndOnScreen) {
  ExportGguf(*tiny_, dir_.File("g"), {.dtype = DType::kFloat32, .name = "tiny", .tokenizer = {}});
  EXPECT_THAT(log_, HasSubstr("NOT applied"));
  const GgufFile file(dir_.File("g"));
  EXPECT_THAT(std::string(std::get<std::string_view>(*file.Find("general.description"))),
              HasSubstr("SEP attention"));
}

TEST_F(TinyGgufTest, WrongTokenizersAndExistingFilesAreRefused) {
  EXPECT_THROW(ExportGguf(*tiny_, dir_.File("g"),
                          {.dtype = DType::kFloat32, .name = "", .tokenizer = FixtureTokenizer()}),
               UserError);
  EXPECT_FALSE(FileExists(dir_.File("g")));
  WriteFileAtomic(dir_.File("g"), "mine");
  EXPECT_THROW(ExportGguf(*tiny_, dir_.File("g"), {}), UserError);
  EXPECT_EQ(ReadFile(dir_.File("g")), "mine");
}

// No checksums in this format: damage is refused or changes values, and never does more.
TEST_F(TinyGgufTest, DamageNeverCrashesNorTakesMemory) {
  const std::string path = dir_.File("g");
  ExportGguf(*tiny_, path, {.dtype = DType::kFloat32, .name = "tiny", .tokenizer = {}});
  const auto load = [&] {
    try {
      testing::ReadEverything(*OpenModelSource(path));
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
      return false;
    }
    return true;
  };
  testing::ForEachFlippedBit(path, 200, load);
  testing::ForEachTruncation(path, 200, [&] { EXPECT_FALSE(load()); });
  // Every field of the tables, set to all ones.
  const std::string whole = ReadFile(path);
  for (size_t at = 4; at < 1200; at += 4) {
    std::string damaged = whole;
    damaged.replace(at, 8, 8, '\xff');
    WriteFileAtomic(path, damaged);
    const auto outcome = testing::RunWithMemoryLimit((16 << 20) + 5 * 4096, load);
    EXPECT_TRUE(outcome == testing::LimitedOutcome::kReturned ||
                outcome == testing::LimitedOutcome::kUnavailable)
        << at;
  }
}

}  // namespace
}  // namespace sepia::checkpoint
