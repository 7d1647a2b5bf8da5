// Conversions: what is written is read by an independent path and is the same, bit for bit.
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/comparison.h"
#include "checkpoint/export/hf_folder.h"
#include "checkpoint/export/sepia_checkpoint.h"
#include "checkpoint/export/tensors_file.h"
#include "checkpoint/import/hf_config.h"
#include "checkpoint/json.h"
#include "checkpoint/safetensors.h"
#include "model/model_config.pb.h"
#include "tests/checkpoint/tiny_checkpoint.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::sepia::testing::TempDir;
using ::testing::HasSubstr;
using testing::HasTinyState;

using ExportTest = testing::TinySourceTest;

TEST_F(ExportTest, HfFolderReimportsWithAttentionTokenizerAndWarning) {
  ExportHfFolder(*tiny_, dir_.File("hf"), {});
  EXPECT_THAT(log_, HasSubstr("SEP attention"));
  EXPECT_EQ(ReadFile(dir_.File("hf/tokenizer.json")), "{\"a stand-in\": 1}\n");
  const auto back = OpenModelSource(dir_.File("hf"));
  EXPECT_EQ(back->format(), "Hugging Face folder");
  EXPECT_TRUE(HasTinyState(*back, 7));
  EXPECT_EQ(back->tokenizer_path(), dir_.File("hf/tokenizer.json"));
  config::ModelConfig config;
  back->FillModelConfig(&config);
  EXPECT_EQ(config.attention().kind(), config::AttentionConfig::SEP);
  EXPECT_EQ(config.attention().window(), 4);
  EXPECT_EQ(config.attention().num_initial(), 3);
  EXPECT_THAT(config.attention().separator_ids(), ::testing::ElementsAre(2, 5));
  EXPECT_EQ(config.activation(), config::TANH_GELU);
  // Only the folder itself remains.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_.path()), {}), 2);
}

TEST_F(ExportTest, ConfigHasEveryKeyThatTransformersReads) {
  ExportHfFolder(*tiny_, dir_.File("hf"), {.dtype = DType::kBFloat16});
  const JsonObject config = ReadJsonObject(dir_.File("hf/config.json"));
  for (const char* key : {"architectures",
                          "model_type",
                          "vocab_size",
                          "hidden_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "intermediate_size",
                          "hidden_act",
                          "max_position_embeddings",
                          "rotary_pct",
                          "rotary_emb_base",
                          "rope_parameters",
                          "layer_norm_eps",
                          "use_parallel_residual",
                          "tie_word_embeddings",
                          "attention_bias",
                          "attention_dropout",
                          "hidden_dropout",
                          "initializer_range",
                          "use_cache",
                          "bos_token_id",
                          "eos_token_id",
                          "torch_dtype",
                          "dtype"}) {
    EXPECT_NE(FindKey(config, key), nullptr) << key;
  }
  EXPECT_EQ(*FindKey(config, "torch_dtype")->As<std::string>(), "bfloat16");
  EXPECT_EQ(*FindKey(config, "hidden_act")->As<std::string>(), "gelu_new");
}

TEST_F(ExportTest, ShardsObeyTheLimitAndTheIndexIsComplete) {
  ExportHfFolder(*tiny_, dir_.File("hf"), {.dtype = DType::kFloat32, .max_shard_bytes = 1500});
  EXPECT_TRUE(FileExists(dir_.File("hf/model.safetensors.index.json")));
  EXPECT_FALSE(FileExists(dir_.File("hf/model.safetensors")));
  int shards = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir_.File("hf"))) {
    if (entry.path().extension() != ".safetensors") continue;
    ++shards;
    const SafetensorsFile file(entry.path());
    size_t bytes = 0;
    for (const SafetensorsEntry& tensor : file.entries()) bytes += tensor.bytes.size();
    EXPECT_LE(bytes, 1500u);
  }
  EXPECT_GT(shards, 2);
  EXPECT_TRUE(HasTinyState(*OpenModelSource(dir_.File("hf")), 7));
}

// The files of a folder with their contents.
std::map<std::string, std::string> Contents(const std::string& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    contents[entry.path().filename()] = ReadFile(entry.path());
  }
  return contents;
}

TEST_F(ExportTest, ExportImportExportIsStable) {
  for (const HfFlavor flavor : {HfFlavor::kGptNeox, HfFlavor::kSepllmGptNeox}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (const int64_t limit : {int64_t{1500}, int64_t{5'000'000'000}}) {
        const std::string name =
            fmt::format("{}-{}-{}", static_cast<int>(flavor), DTypeName(dtype), limit);
        const HfExportOptions options{.dtype = dtype, .max_shard_bytes = limit, .flavor = flavor};
        ExportHfFolder(*tiny_, dir_.File(name + "-1"), options);
        ExportHfFolder(*OpenModelSource(dir_.File(name + "-1")), dir_.File(name + "-2"), options);
        const auto first = Contents(dir_.File(name + "-1"));
        EXPECT_EQ(first, Contents(dir_.File(name + "-2"))) << name;
        EXPECT_GE(first.size(), limit == 1500 ? 6u : 4u);
      }
    }
  }
}

TEST_F(ExportTest, NarrowTypesRoundToNearest) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    const std::string folder = dir_.File(std::string(DTypeName(dtype)));
    ExportHfFolder(*tiny_, folder, {.dtype = dtype});
    const auto back = OpenModelSource(folder);
    for (const SourceTensor& tensor : back->tensors()) {
      EXPECT_EQ(tensor.dtype, dtype);
      std::vector<float> values(static_cast<size_t>(tensor.shape.num_elements()));
      back->ReadTensor(tensor.name, TensorView::Of(std::span(values), tensor.shape));
      for (size_t i = 0; i < values.size(); ++i) {
        const float exact =
            testing::TinyValue(tensor.name, Role::kMaster, static_cast<int64_t>(i), 7);
        // Half the spacing of the stored type at this value: bf16 has 7 fraction bits, f16 has 10
        // and its spacing stops shrinking at 2^-14.
        const int spacing = dtype == DType::kBFloat16 ? std::ilogb(exact) - 7
                                                      : std::max(std::ilogb(exact), -14) - 10;
        const float bound = std::ldexp(0.5f, spacing);
        EXPECT_LE(std::abs(values[i] - exact), bound);
      }
    }
  }
}

TEST_F(ExportTest, ValuesThatDoNotFitAreRefusedAndNothingRemains) {
  std::vector<float> value(8, 70000.0f);
  testing::TinyState state(1, false);
  std::vector<CheckpointTensor> tensors = state.tensors();
  for (CheckpointTensor& tensor : tensors) {
    if (tensor.tensor.name == "gpt_neox.final_layer_norm.bias") {
      tensor.tensor.view = TensorView::Of(std::span(value), {8});
    }
  }
  config::ModelConfig model;
  testing::FillTinyModel(&model);
  CheckpointWriter writer({.dir = dir_.File("big"), .retention = {}, .before_stage = {}});
  writer.Save({.step = 0,
               .model = &model,
               .tensors = tensors,
               .train_state = nullptr,
               .config_text = "",
               .attachments = {}});
  const auto source = OpenModelSource(dir_.File("big"));
  EXPECT_THROW(ExportHfFolder(*source, dir_.File("hf"), {.dtype = DType::kFloat16}), UserError);
  EXPECT_FALSE(FileExists(dir_.File("hf")));
  EXPECT_NO_THROW(ExportHfFolder(*source, dir_.File("hf"), {.dtype = DType::kBFloat16}));
}

TEST_F(ExportTest, ExistingDirectoriesAreNotTouched) {
  CreateDirectories(dir_.File("hf"));
  ExportHfFolder(*tiny_, dir_.File("hf"), {});  // an empty one is fine
  EXPECT_THROW(ExportHfFolder(*tiny_, dir_.File("hf"), {}), UserError);
  EXPECT_THROW(ExportSepiaCheckpoint(*tiny_, dir_.File("hf"), DType::kFloat32), UserError);
}

TEST_F(ExportTest, TiedModelsHaveNoHead) {
  config::ModelConfig model;
  testing::FillTinyModel(&model);
  model.set_tie_embeddings(true);
  testing::TinyState state(3, false);
  std::vector<CheckpointTensor> tensors = state.tensors();
  std::erase_if(tensors, [](const auto& t) { return t.tensor.name == "embed_out.weight"; });
  CheckpointWriter writer({.dir = dir_.File("tied"), .retention = {}, .before_stage = {}});
  writer.Save({.step = 0,
               .model = &model,
               .tensors = tensors,
               .train_state = nullptr,
               .config_text = "",
               .attachments = {}});
  ExportHfFolder(*OpenModelSource(dir_.File("tied")), dir_.File("hf"), {});
  const auto back = OpenModelSource(dir_.File("hf"));
  EXPECT_EQ(back->tensors().size(), 15u);
  EXPECT_TRUE(HasTinyState(*back, 3));
}

TEST_F(ExportTest, SepiaCheckpointKeepsStateInFp32AndWeightsOnlyBelow) {
  const std::string step = ExportSepiaCheckpoint(*tiny_, dir_.File("copy"), DType::kFloat32);
  const auto copy = OpenModelSource(dir_.File("copy"));
  EXPECT_EQ(copy->path(), step);
  EXPECT_TRUE(CompareSources(*tiny_, *copy).empty());
  EXPECT_TRUE(copy->Has(Role::kExpAvg));
  EXPECT_EQ(*copy->train_state(), *tiny_->train_state());
  EXPECT_EQ(copy->config_text(), tiny_->config_text());
  EXPECT_FALSE(copy->tokenizer_path().empty());

  ExportSepiaCheckpoint(*tiny_, dir_.File("half"), DType::kBFloat16);
  const auto half = OpenModelSource(dir_.File("half"));
  EXPECT_FALSE(half->Has(Role::kExpAvg));
  EXPECT_EQ(half->train_state(), nullptr);
  EXPECT_EQ(half->tensors()[0].dtype, DType::kBFloat16);
}

TEST_F(ExportTest, TensorsFileHoldsTheWholeState) {
  ExportTensorsFile(*tiny_, dir_.File("t.safetensors"));
  const SafetensorsFile file(dir_.File("t.safetensors"));
  EXPECT_EQ(file.metadata().at("step"), "7");
  EXPECT_EQ(file.entries().size(), 48u);
  const std::string name = "gpt_neox.layers.0.attention.dense.weight";
  for (const Role role : {Role::kMaster, Role::kExpAvg, Role::kExpAvgSq}) {
    const SafetensorsEntry& entry = file.Get(std::string(RoleName(role)) + "." + name);
    std::vector<float> values(64);
    file.ReadFloats(entry, values);
    for (int64_t i = 0; i < 64; ++i) {
      EXPECT_EQ(values[static_cast<size_t>(i)], testing::TinyValue(name, role, i, 7));
    }
  }
}

TEST_F(ExportTest, FixturesSurviveTheRoundTripThroughSepia) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/checkpoints/hf_safetensors");
  for (const std::string name : {"a/fp32_sharded", "b/bf16", "t/fp16"}) {
    const auto original = OpenModelSource(root + "/" + name);
    const DType dtype = original->tensors()[0].dtype;
    const std::string copy = dir_.File(name.substr(2));
    ExportSepiaCheckpoint(*original, copy, dtype);
    ExportHfFolder(*OpenModelSource(copy), copy + "-hf", {.dtype = dtype});
    const auto back = OpenModelSource(copy + "-hf");
    EXPECT_TRUE(CompareSources(*original, *back).empty()) << name;
    EXPECT_EQ(back->tensors()[0].dtype, dtype);
    config::ModelConfig before;
    config::ModelConfig after;
    original->FillModelConfig(&before);
    back->FillModelConfig(&after);
    EXPECT_EQ(before.SerializeAsString(), after.SerializeAsString()) << name;
  }
}

TEST(ComparisonTest, CountsUlpsAcrossZeroAndSpecials) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto compare = [](float a, float b) {
    Difference difference;
    Compare(std::span(&a, 1), std::span(&b, 1), &difference);
    return difference;
  };
  EXPECT_EQ(compare(1.0f, 1.0f).elements, 0);
  EXPECT_EQ(compare(nan, nan).elements, 0);
  EXPECT_EQ(compare(0.0f, -0.0f).elements, 1);
  EXPECT_EQ(compare(0.0f, -0.0f).max_ulp, 0);
  EXPECT_EQ(compare(1.0f, 1.0f + 0x1p-23f).max_ulp, 1);
  EXPECT_EQ(compare(-1e-45f, 1e-45f).max_ulp, 2);
  EXPECT_EQ(compare(2.0f, 1.0f).max_ulp, 1 << 23);
  EXPECT_EQ(compare(2.0f, 0.5f).max_absolute, 1.5);
  EXPECT_EQ(compare(nan, 1.0f).max_ulp, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(compare(infinity, std::numeric_limits<float>::max()).max_ulp, 1);
}

TEST_F(ExportTest, StatisticsAndDifferencesNameWhatChanged) {
  CheckpointWriter writer({.dir = dir_.File("other"), .retention = {}, .before_stage = {}});
  testing::SaveTiny(&writer, 8);
  const auto other = OpenModelSource(dir_.File("other"));
  EXPECT_EQ(CompareSources(*tiny_, *other).size(), 48u);
  const SourceTensor& tensor = tiny_->Get("embed_out.weight");
  const TensorStatistics numbers = ComputeStatistics(*tiny_, tensor, Role::kMaster);
  double sum = 0;
  double most = 0;
  for (int64_t i = 0; i < 128; ++i) {
    const double value = testing::TinyValue(tensor.name, Role::kMaster, i, 7);
    sum += value * value;
    most = std::max(most, value);
  }
  EXPECT_DOUBLE_EQ(numbers.rms, std::sqrt(sum / 128));
  EXPECT_EQ(numbers.max, most);
  EXPECT_EQ(numbers.nans, 0);
}

}  // namespace
}  // namespace sepia::checkpoint
