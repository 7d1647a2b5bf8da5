// GPT-NeoX / DeepSpeed checkpoints against a simulation that knows nothing about partitions
// (fixtures/checkpoints/neox), bit for bit.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/json.h"
#include "checkpoint/model_source.h"
#include "checkpoint/neox/neox_config.h"
#include "checkpoint/neox/yaml.h"
#include "model/model_config.pb.h"
#include "tests/checkpoint/expect_tensors.h"
#include "tests/checkpoint/file_damage.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::sepia::testing::TempDir;
using testing::ExpectTensors;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kRoot = "fixtures/checkpoints/neox";
constexpr const char* kCases[] = {"old_tp1_dp1",
                                  "old_tp1_dp2_intervals",
                                  "old_tp1_dp4_intervals",
                                  "old_tp2_dp2",
                                  "old_tp4_dp1",
                                  "old_tp2_dp4_a",
                                  "old_tp1_dp2_one_group",
                                  "old_tp2_dp1_row_head",
                                  "old_tp2_dp1_sequential_residual",
                                  "new_tp1_dp1",
                                  "old_tp2_dp1_diverged_norms",
                                  "new_tp1_dp4",
                                  "new_tp2_dp2",
                                  "new_tp4_dp2_linear1",
                                  "new_tp1_dp2_elastic",
                                  "new_tp2_dp2_bf16",
                                  "new_tp1_dp3_padded",
                                  "new_tp1_dp3_bf16_padded"};

struct Fixture {
  explicit Fixture(const std::string& folder) : object(ReadJsonObject(folder + "/fixture.json")) {}
  int64_t Integer(const char* key) const { return *FindKey(object, key)->As<int64_t>(); }
  std::string Text(const char* key) const { return *FindKey(object, key)->As<std::string>(); }
  JsonObject object;
};

// A checkpoint that a test may damage.
class Copy {
 public:
  explicit Copy(const std::string& folder) {
    fs::copy(folder, dir_.path(), fs::copy_options::recursive);
    for (const auto& entry : fs::recursive_directory_iterator(dir_.path())) {
      fs::permissions(entry, fs::perms::owner_all);
    }
  }
  const std::string& path() const { return dir_.path(); }
  std::string File(const std::string& name) const { return dir_.File("global_step4/" + name); }
  std::string Refusal() const {
    try {
      testing::ReadEverything(*OpenModelSource(path()));
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
      return error.what();
    }
    return "";
  }

 private:
  TempDir dir_;
};

TEST(NeoxImportTest, MastersMomentsAndStateAreExact) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  for (const std::string name : kCases) {
    SCOPED_TRACE(name);
    const std::string folder = root + "/" + name;
    const Fixture fixture(folder);
    const auto source = OpenModelSource(folder);
    EXPECT_EQ(source->format(), "GPT-NeoX checkpoint");
    const std::string expected = root + "/" + fixture.Text("expected_full_state");
    ExpectTensors(*source, expected, Role::kMaster, "weight.");
    ExpectTensors(*source, expected, Role::kExpAvg, "exp_avg.");
    ExpectTensors(*source, expected, Role::kExpAvgSq, "exp_avg_sq.");
    const TrainState& state = *source->train_state();
    EXPECT_EQ(state.step, fixture.Integer("global_steps"));
    EXPECT_EQ(state.applied_steps, fixture.Integer("expected_step"));
    EXPECT_EQ(state.skipped_steps, fixture.Integer("skipped_steps"));
    EXPECT_EQ(state.consumed_samples, fixture.Integer("global_samples"));
    EXPECT_EQ(state.consumed_tokens, 64 * fixture.Integer("global_samples"));
    EXPECT_EQ(state.schedule.kind, "COSINE");
    EXPECT_EQ(state.schedule.lr, 0.001);
    EXPECT_EQ(state.schedule.decay_steps, 1000);
    config::ModelConfig config;
    source->FillModelConfig(&config);
    EXPECT_EQ(config.vocab_size(), fixture.Integer("padded_vocab"));
    EXPECT_EQ(config.parallel_residual(), name != "old_tp2_dp1_sequential_residual");
  }
}

TEST(NeoxImportTest, LossScalersContinue) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  for (const char* name : {"old_tp2_dp2", "new_tp2_dp2"}) {
    // cur_scale 4096, cur_iter 4, last_overflow_iter 2: one good step since the third overflowed.
    const LossScalerState scaler = OpenModelSource(root + "/" + name)->train_state()->loss_scaler;
    EXPECT_TRUE(scaler.dynamic);
    EXPECT_EQ(scaler.scale, 4096);
    EXPECT_EQ(scaler.good_steps, 1);
    EXPECT_EQ(scaler.last_overflow_step, 3);
    EXPECT_EQ(scaler.hysteresis_left, 1);
  }
  EXPECT_FALSE(OpenModelSource(root + "/new_tp2_dp2_bf16")->train_state()->loss_scaler.dynamic);
}

TEST(NeoxImportTest, WeightsOfLayerFilesAreExact) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  for (const std::string name : kCases) {
    SCOPED_TRACE(name);
    const std::string folder = root + "/" + name;
    const std::string expected = root + "/" + Fixture(folder).Text("expected_half_weights");
    ExpectTensors(*OpenModelSource(folder), expected, Role::kWeight);
    // The same where only the layer files were fetched.
    const Copy copy(folder);
    for (const auto& entry : fs::recursive_directory_iterator(copy.path())) {
      if (entry.path().string().find("_optim_states") != std::string::npos) fs::remove(entry);
    }
    const auto weights = OpenModelSource(copy.path());
    ExpectTensors(*weights, expected);
    EXPECT_FALSE(weights->Has(Role::kExpAvg));
    EXPECT_EQ(weights->train_state(), nullptr);
  }
}

TEST(NeoxImportTest, PartsAcrossRanksEqualTheWhole) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  const auto source = OpenModelSource(root + "/old_tp4_dp1");
  for (const Role role : {Role::kMaster, Role::kWeight, Role::kExpAvg}) {
    for (const char* name : {"gpt_neox.layers.1.attention.dense.weight",
                             "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"}) {
      const SourceTensor& tensor = source->Get(name);
      std::vector<float> whole(static_cast<size_t>(tensor.shape.num_elements()));
      source->ReadTensor(name, TensorView::Of(std::span(whole), tensor.shape), role);
      for (const Rectangle& part : {Rectangle{{3, 2}, {9, 13}}, Rectangle{{0, 4}, {16, 4}},
                                    Rectangle{{15, 0}, {1, 16}}, Rectangle{{2, 3}, {0, 4}}}) {
        std::vector<float> values(static_cast<size_t>(part.num_elements()));
        source->ReadPart(name, part, TensorView::Of(std::span(values), part.extent), role);
        for (size_t i = 0; i < values.size(); ++i) {
          const auto index = static_cast<int64_t>(i);
          const int64_t row = part.offset[0] + index / part.extent[1];
          const int64_t column = part.offset[1] + index % part.extent[1];
          EXPECT_EQ(values[i], whole[static_cast<size_t>(row * tensor.shape[1] + column)]);
        }
      }
    }
  }
}

TEST(NeoxImportTest, MissingFilesAreNamed) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  const std::pair<const char*, const char*> cases[] = {
      {"zero_pp_rank_1_mp_rank_00_optim_states.pt", "optimizer file of data rank 1 is missing"},
      {"zero_pp_rank_3_mp_rank_01_optim_states.pt", "rank 1 has"},
      {"mp_rank_01_model_states.pt", "no mp_rank file"},
      {"layer_03-model_01-model_states.pt", "other layer files"},
      {"configs/model.yml", "YAML config is missing"},
  };
  for (const auto& [file, message] : cases) {
    const Copy copy(root + "/old_tp2_dp4_a");
    fs::remove(copy.File(file));
    EXPECT_THAT(copy.Refusal(), HasSubstr(message)) << file;
  }
  const Copy last(root + "/old_tp1_dp4_intervals");
  fs::remove(last.File("zero_pp_rank_3_mp_rank_00_optim_states.pt"));
  EXPECT_THAT(last.Refusal(), HasSubstr("4 data ranks wrote this optimizer state"));
  const Copy layer(root + "/old_tp1_dp1");
  fs::remove(layer.File("layer_03-model_00-model_states.pt"));
  EXPECT_THAT(layer.Refusal(), HasSubstr("'3.input_layernorm.weight'"));
}

TEST(NeoxImportTest, FilesOfAnotherRunAreRefused) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  const Copy copy(root + "/old_tp2_dp2");
  fs::copy_file(root + "/old_tp4_dp1/global_step4/layer_02-model_01-model_states.pt",
                copy.File("layer_02-model_01-model_states.pt"),
                fs::copy_options::overwrite_existing);
  EXPECT_THAT(copy.Refusal(), HasSubstr("has shape"));
  const Copy optimizer(root + "/old_tp2_dp2");
  fs::copy_file(
      root + "/old_tp2_dp1_row_head/global_step4/zero_pp_rank_0_mp_rank_01_optim_states.pt",
      optimizer.File("zero_pp_rank_0_mp_rank_01_optim_states.pt"),
      fs::copy_options::overwrite_existing);
  EXPECT_NE(optimizer.Refusal(), "");
}

TEST(NeoxImportTest, LatestLeadsNowhereElse) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  for (const char* name : {"../old_tp1_dp1", "global_step9", "", "/etc"}) {
    const Copy copy(root + "/old_tp1_dp1");
    WriteFileAtomic(copy.path() + "/latest", name);
    EXPECT_THAT(copy.Refusal(), HasSubstr("does not name a checkpoint")) << name;
  }
}

// Damage of any file is refused or changes nothing, as in torch_import_test.
TEST(NeoxImportTest, DamagedFilesNeverCrash) {
  SEPIA_SHARED_OR_SKIP(root, kRoot);
  SetLogSink([](LogLevel, std::string_view) {});
  for (const char* file : {"layer_02-model_00-model_states.pt", "mp_rank_00_model_states.pt",
                           "zero_pp_rank_0_mp_rank_00_optim_states.pt", "configs/model.yml"}) {
    const Copy copy(root + "/old_tp1_dp2_intervals");
    testing::ForEachFlippedBit(copy.File(file), 200, [&] { copy.Refusal(); });
    const bool is_config = std::string(file).ends_with("yml");
    testing::ForEachTruncation(copy.File(file), 200, [&] {
      const std::string refusal = copy.Refusal();
      EXPECT_TRUE(is_config || !refusal.empty()) << file;
    });
  }
  SetLogSink(nullptr);
}

TEST(NeoxConfigTest, YamlIsReadAsGptNeoxReadsIt) {
  const JsonObject object = ParseYamlObject(
      "{\n  # comment\n  \"num-layers\": 12, 'a': [1, 2.5, -3, 1.0e-8, 1e-8],\n  b: text,\n  "
      "\"c\": "
      "\"5\", d: {e: True, f: null},\n}\n",
      "x.yml");
  EXPECT_EQ(*FindKey(object, "num-layers")->As<int64_t>(), 12);
  const JsonArray& a = *FindKey(object, "a")->As<JsonArray>();
  EXPECT_EQ(*a[1].As<double>(), 2.5);
  EXPECT_EQ(*a[3].As<double>(), 1e-8);
  EXPECT_EQ(*a[4].As<double>(), 1e-8);
  EXPECT_EQ(*FindKey(object, "c")->As<std::string>(), "5");
  const JsonObject& d = *FindKey(object, "d")->As<JsonObject>();
  EXPECT_TRUE(*FindKey(d, "e")->As<bool>());
  EXPECT_TRUE(FindKey(d, "f")->is_null());
  EXPECT_EQ(*FindKey(ParseYamlObject("a-b: 1\nc:\n  - x\n", "x.yml"), "a-b")->As<int64_t>(), 1);
}

TEST(NeoxConfigTest, HostileYamlIsRefused) {
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      ParseYamlObject(text, "x.yml");
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refusal("a: 1\na: 2\n"), HasSubstr("x.yml:2:1: the key 'a' appears twice"));
  EXPECT_THAT(refusal("a: &x 1\nb: *x\n"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("a: !!python/object/apply:os.system [ls]\n"), HasSubstr("tags"));
  EXPECT_THAT(refusal("- 1\n"), HasSubstr("no mapping"));
  EXPECT_THAT(refusal("a: {b\n"), HasSubstr("not valid YAML"));
  EXPECT_THAT(refusal("a: " + std::string(500, '[')), HasSubstr("nested too deep"));
  EXPECT_THAT(refusal("a: 1\n---\nb: 1\n"), HasSubstr("more than one document"));
  EXPECT_THAT(refusal("a: \xff\n"), HasSubstr("not valid YAML"));
}

TEST(NeoxConfigTest, SepllmKeysBecomeAttention) {
  const std::string base =
      "{num_layers: 3, hidden_size: 64, num_attention_heads: 4, seq_length: 2048, pos_emb: rotary, "
      "rotary_pct: 0.25, gpt_j_residual: true, no_weight_tying: true, bias_gelu_fusion: true, ";
  const auto attention = [&](const std::string& keys) {
    config::ModelConfig model;
    FillNeoxModelConfig(ParseYamlObject(base + keys + "}", "x.yml"), "x.yml", &model);
    EXPECT_EQ(model.activation(), config::TANH_GELU);
    return model.attention();
  };
  EXPECT_EQ(attention("").kind(), config::AttentionConfig::FULL);
  EXPECT_EQ(attention("separator_token_ids: [15], USE_ORIGINAL_FULL_ATTEN: True").kind(),
            config::AttentionConfig::FULL);
  const auto uniform = attention("separator_token_ids: [15, 13], prefill_local_window_size: 64");
  EXPECT_EQ(uniform.kind(), config::AttentionConfig::SEP);
  EXPECT_EQ(uniform.window(), 64);
  EXPECT_EQ(uniform.num_initial(), 3);
  EXPECT_THAT(uniform.separator_ids(), ::testing::ElementsAre(15, 13));
  const auto hybrid = attention(
      "separator_token_ids: [15], init_tok_max_idx: 1, USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS: "
      "True, prefill_loc_win_size_list: [2048, 64, 64]");
  EXPECT_EQ(hybrid.window(), 64);
  EXPECT_EQ(hybrid.num_initial(), 2);
  EXPECT_THAT(hybrid.full_layers(), ::testing::ElementsAre(0));
  const auto varied = attention(
      "separator_token_ids: [15], USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS: True, "
      "prefill_loc_win_size_list: [2048, 64, 128]");
  EXPECT_THAT(varied.window_per_layer(), ::testing::ElementsAre(2048, 64, 128));
  EXPECT_EQ(attention("streamingLLM: True").kind(), config::AttentionConfig::STREAMING);
  EXPECT_THROW(attention("separator_token_ids: [15], USE_BiPE: True"), UserError);
}

}  // namespace
}  // namespace sepia::checkpoint
