// Exports for GPT-NeoX and for the SepLLM authors' class: read back by the imports, which the
// fixtures of others judge.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/comparison.h"
#include "checkpoint/export/hf_folder.h"
#include "checkpoint/export/neox_folder.h"
#include "checkpoint/export/sepllm_keys.h"
#include "checkpoint/json.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch/torch_file.h"
#include "checkpoint/torch/torch_writer.h"
#include "model/model_config.pb.h"
#include "tests/checkpoint/tiny_checkpoint.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::sepia::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HasTinyState;

class ForeignExportTest : public testing::TinySourceTest {
 protected:
  config::ModelConfig ConfigOf(const std::string& path) const {
    config::ModelConfig config;
    OpenModelSource(path)->FillModelConfig(&config);
    return config;
  }
};

TEST_F(ForeignExportTest, NeoxFoldersComeBack) {
  ExportNeoxFolder(*tiny_, dir_.File("neox"), DType::kFloat32);
  EXPECT_EQ(ReadFile(dir_.File("neox/latest")), "global_step7");
  for (const char* file : {"layer_00-model_00-model_states.pt", "layer_02-model_00-model_states.pt",
                           "layer_04-model_00-model_states.pt", "layer_05-model_00-model_states.pt",
                           "mp_rank_00_model_states.pt", "configs/sepia.yml"}) {
    EXPECT_TRUE(FileExists(dir_.File("neox/global_step7/") + file)) << file;
  }
  const auto back = OpenModelSource(dir_.File("neox"));
  EXPECT_TRUE(HasTinyState(*back, 7));
  EXPECT_EQ(back->train_state(), nullptr);
  const config::ModelConfig config = ConfigOf(dir_.File("neox"));
  EXPECT_EQ(config.activation(), config::TANH_GELU);
  EXPECT_EQ(config.attention().kind(), config::AttentionConfig::SEP);
  EXPECT_EQ(config.attention().window(), 4);
  EXPECT_THAT(config.attention().separator_ids(), ElementsAre(2, 5));
  EXPECT_THAT(log_, HasSubstr("GPT-NeoX itself computes full attention"));
  EXPECT_THROW(ExportNeoxFolder(*tiny_, dir_.File("neox"), DType::kFloat32), UserError);
}

TEST_F(ForeignExportTest, NeoxExportOfAnImportIsStable) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const std::string first = dir_.File(std::string(DTypeName(dtype)) + "1");
    const std::string second = dir_.File(std::string(DTypeName(dtype)) + "2");
    ExportNeoxFolder(*tiny_, first, dtype);
    ExportNeoxFolder(*OpenModelSource(first), second, dtype);
    for (const char* file :
         {"layer_02-model_00-model_states.pt", "layer_05-model_00-model_states.pt"}) {
      EXPECT_EQ(ReadFile(first + "/global_step7/" + file),
                ReadFile(second + "/global_step0/" + file));
    }
  }
}

TEST_F(ForeignExportTest, NeoxExportOfFixturesIsExact) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/checkpoints/hf_safetensors");
  for (const std::string name : {"a/fp32", "b/bf16", "t/fp16"}) {
    const auto source = OpenModelSource(root + "/" + name);
    const std::string folder = dir_.File(name.substr(2));
    ExportNeoxFolder(*source, folder, source->tensors()[0].dtype);
    EXPECT_TRUE(CompareSources(*source, *OpenModelSource(folder)).empty()) << name;
  }
}

TEST_F(ForeignExportTest, SepllmFoldersHaveTheAuthorsNamesAndKeys) {
  ExportHfFolder(*tiny_, dir_.File("hf"), {.flavor = HfFlavor::kSepllmGptNeox});
  EXPECT_EQ(log_.find("full attention"), std::string::npos);
  const SafetensorsFile file(dir_.File("hf/model.safetensors"));
  for (const SafetensorsEntry& entry : file.entries()) {
    EXPECT_TRUE(entry.name.starts_with("sepllm_gpt_neox.") || entry.name == "embed_out.weight")
        << entry.name;
  }
  const JsonObject config = ReadJsonObject(dir_.File("hf/config.json"));
  EXPECT_EQ(*FindKey(config, "model_type")->As<std::string>(), "sepllm_gpt_neox");
  // Every key of the authors' converter.
  for (const char* key : {"pos_emb",
                          "num_layers",
                          "model_parallel_size",
                          "mup_rp_embedding_mult",
                          "separator_token_ids",
                          "PADDING_ID",
                          "prefill_local_window_size",
                          "generate_local_window_size",
                          "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS",
                          "USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS",
                          "prefill_loc_win_size_list",
                          "generate_win_loc_size_list",
                          "init_tok_max_idx",
                          "USE_ORIGINAL_FULL_ATTEN",
                          "streamingLLM",
                          "PRINT_KV_RATIO",
                          "print_ratio_intervals",
                          "EXCLUDE_DIAGONAL",
                          "USE_BiPE",
                          "BiPE_seps",
                          "USE_SA_SOFTMAX",
                          "USE_SA_SOFTMAX_NO_DENO",
                          "SA_Numerator_Bias",
                          "SA_Denominator_Bias",
                          "BATCH_ADAPTIVE_INIT_POS",
                          "rotary_pct",
                          "use_parallel_residual",
                          "layer_norm_eps",
                          "intermediate_size"}) {
    EXPECT_NE(FindKey(config, key), nullptr) << key;
  }
  EXPECT_EQ(*FindKey(config, "init_tok_max_idx")->As<int64_t>(), 2);
  EXPECT_TRUE(HasTinyState(*OpenModelSource(dir_.File("hf")), 7));
  EXPECT_EQ(ConfigOf(dir_.File("hf")).attention().window(), 4);
  ExportHfFolder(*tiny_, dir_.File("shards"),
                 {.max_shard_bytes = 1500, .flavor = HfFlavor::kSepllmGptNeox});
  EXPECT_TRUE(HasTinyState(*OpenModelSource(dir_.File("shards")), 7));
}

TEST(SepllmKeysTest, LayersBecomeWindowsAndTheRestIsRefused) {
  config::ModelConfig config;
  config.set_num_layers(4);
  config.set_max_positions(2048);
  auto* attention = config.mutable_attention();
  attention->set_kind(config::AttentionConfig::SEP);
  attention->set_window(64);
  attention->add_full_layers(0);
  attention->add_full_layers(-1);
  EXPECT_THAT(MakeSepllmKeys(config), HasSubstr("[2048,64,64,2048]"));
  EXPECT_THAT(MakeSepllmKeys(config), HasSubstr("[15,13,32,2,28,27,209,186,187]"));
  attention->set_kind(config::AttentionConfig::FIXED_STRIDE);
  EXPECT_THROW(MakeSepllmKeys(config), UserError);
  attention->set_kind(config::AttentionConfig::SEP);
  attention->add_num_initial_per_layer(1);
  EXPECT_THROW(MakeSepllmKeys(config), UserError);
}

TEST(TorchWriterTest, PicklesOfEveryValueAreReadBack) {
  const TempDir dir;
  PickleWriter pickle;
  pickle.BeginDict();
  pickle.String("negative");
  pickle.Integer(-5);
  pickle.String("wide");
  pickle.Integer(int64_t{1} << 40);
  pickle.String("float");
  pickle.Float(-2.5e-3);
  pickle.String("none");
  pickle.None();
  pickle.String("tensor");
  pickle.Tensor(DType::kFloat32, {2, 3}, "0");
  pickle.EndDict();
  const float values[] = {1, 2, 3, 4, 5, 6};
  const std::string bytes(reinterpret_cast<const char*>(values), sizeof(values));
  WriteTorchArchive(dir.File("f.pt"), "f",
                    {TextMember("data.pkl", pickle.Take()), TextMember("data/0", bytes),
                     TextMember("version", "3\n")});
  const TorchFile file(dir.File("f.pt"), PickleMode::kWeights);
  const PickleDict& dict = file.RootDict();
  EXPECT_EQ(std::get<int64_t>(*FindKey(dict, "negative")), -5);
  EXPECT_EQ(std::get<int64_t>(*FindKey(dict, "wide")), int64_t{1} << 40);
  EXPECT_EQ(std::get<double>(*FindKey(dict, "float")), -2.5e-3);
  EXPECT_TRUE(std::holds_alternative<PickleNone>(*FindKey(dict, "none")));
  const auto* tensor = PointerTo<TorchTensor>(*FindKey(dict, "tensor"));
  ASSERT_NE(tensor, nullptr);
  std::vector<float> column(2);
  file.ReadFloats(*tensor, {{0, 1}, {2, 1}}, column);
  EXPECT_THAT(column, ElementsAre(2, 5));
}

}  // namespace
}  // namespace sepia::checkpoint
