#include "trainer/config.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"
#include "tests/trainer/config_faults.h"
#include "trainer/config_docs.h"

namespace sepia::trainer {
namespace {

using ::sepia::testing::SharedPath;
using ::sepia::testing::SourcePath;
using ::sepia::testing::TempDir;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(Config, PresetBringsArchitectureRateAndSteps) {
  const LoadedConfig config = LoadConfigText(kRun, "c", {});
  const TrainSettings& s = config.settings;
  EXPECT_EQ(s.model.num_layers, 12);
  EXPECT_EQ(s.model.num_parameters(), 162322944);  // EleutherAI/pythia README
  EXPECT_EQ(s.optimizer.lr, 6e-4);
  EXPECT_EQ(s.optimizer.min_lr, 6e-5);
  EXPECT_EQ(s.schedule.total_steps, 143000);
  EXPECT_EQ(s.schedule.decay_steps, 143000);
  EXPECT_EQ(s.schedule.warmup_steps, 1430);
  EXPECT_EQ(s.data.seed, 1234);
  EXPECT_EQ(s.checkpoint.dir, "r/checkpoints");
  EXPECT_THAT(config.deviations, IsEmpty());
  EXPECT_THAT(config.warnings, IsEmpty());
}

TEST(Config, WithoutPresetEverythingNeededIsAskedForAtOnce) {
  const std::string faults = Faults("");
  for (const char* field :
       {"model.vocab_size", "model.hidden_size", "model.num_layers", "model.num_heads",
        "optimizer.lr", "schedule.total_steps", "data.train", "run_dir"}) {
    EXPECT_THAT(faults, HasSubstr(field));
  }
}

// Each line alone: the text, and the one message that it must give.
struct BadCase {
  const char* text;
  const char* message;
};

class BadConfig : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadConfig, GivesExactlyThisMessage) {
  EXPECT_EQ(Faults(std::string(kRun) + GetParam().text), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Parsing, BadConfig,
    ::testing::Values(
        BadCase{"sed: 3", "c:4:1: unknown field \"sed\" in the config; did you mean \"seed\"?"},
        BadCase{"batch { micr: 3 }",
                "c:4:9: unknown field \"micr\" in batch; did you mean \"micro\"?"},
        BadCase{"zzz { a: [1, {b: 2}] c < d: 'x' > }",
                "c:4:1: unknown field \"zzz\" in the config"},
        BadCase{"precision: BF61",
                "c:4:12: precision: expected one of FP32, BF16, FP16, found \"BF61\"; did you mean "
                "\"BF16\"?"},
        BadCase{"seed: 1.5", "c:4:7: seed: expected a whole number, found \"1.5\""},
        BadCase{"seed: 010", "c:4:7: seed: 010 would be an octal number; leave out the leading 0"},
        BadCase{"threads: 3000000000",
                "c:4:10: threads: 3000000000 is outside -2147483648 ... 2147483647"},
        BadCase{"recompute: yes", "c:4:12: recompute: expected true or false, found \"yes\""},
        BadCase{"optimizer { eps: nan }",
                "c:4:18: optimizer.eps: expected a number, found \"nan\""},
        BadCase{"optimizer { eps: 1e999 }", "c:4:18: optimizer.eps: 1e999 is too large"},
        BadCase{"seed: 1 seed: 2", "c:4:9: \"seed\" is given twice; the first is in line 4"},
        BadCase{"seed 1",
                "c:4:6: expected \":\" after \"seed\", found \"1\"\n"
                "c:4:6: expected a field name, found \"1\""},
        BadCase{"seed: [1]", "c:4:7: seed takes one value, not a list"},
        BadCase{"eval { steps: 3", "c:4:16: missing \"}\" at the end of eval"},
        BadCase{"}", "c:4:1: expected a field name, found \"}\""},
        BadCase{"eval: 3", "c:4:7: expected \"{\" after eval, found \"3\""},
        BadCase{"init_from { path: 'x }",
                "c:4:23: syntax: Unexpected end of string.\n"
                "c:4:23: missing \"}\" at the end of init_from"}));

INSTANTIATE_TEST_SUITE_P(
    Values, BadConfig,
    ::testing::Values(
        BadCase{"seed: -1", "c:4:1: seed: -1 is out of range; it must be at least 0"},
        BadCase{"optimizer { lr: 0 }",
                "c:4:13: optimizer.lr: 0 is out of range; it must be above 0"},
        BadCase{"optimizer { lr: 1e-3 min_lr: 1e-2 }",
                "c:4:22: optimizer.min_lr: 0.01 is above optimizer.lr 0.001"},
        BadCase{"schedule { total_steps: 100 warmup_steps: 101 }",
                "c:4:29: schedule.warmup_steps: 101 is above decay_steps 100, which includes the "
                "warm-up"},
        BadCase{"schedule { total_steps: 100 warmup_steps: 10 warmup_fraction: 0.2 }",
                "c:4:29: schedule.warmup_steps: 10 contradicts warmup_fraction 0.2 of 100 steps; "
                "give one of them"},
        BadCase{"batch { global: 10 micro: 4 }",
                "c:4:9: batch.global: 10 is not a multiple of micro 4 x 1 data rank; take 8 or 12"},
        BadCase{"parallel { tensor: 5 }",
                "c:4:12: parallel.tensor: 5 does not divide the 12 heads; take 4 or 6"},
        BadCase{"parallel { grad_reduce_dtype: BF16 }",
                "c:4:12: parallel.grad_reduce_dtype: this version adds gradients in FP32 only"},
        BadCase{"parallel { zero_stage: 3 }",
                "c:4:12: parallel.zero_stage: 3 is out of range; it must be from 0 to 2"},
        BadCase{"rope_fp16_tables: true",
                "c:4:1: rope_fp16_tables: belongs to numerics PYTHIA_V1, not NEOX_2; remove one of "
                "them"},
        BadCase{"samples { every_steps: 10 prompt: 'a' }",
                "c:4:11: samples.every_steps: samples need a tokenizer; set data.tokenizer"},
        BadCase{"loss_scale { window: 0 }",
                "c:4:14: loss_scale.window: 0 is out of range; it must be at least 1"}));

std::string ModelFaults(const std::string& fields) {
  return Faults("model { preset: 'pythia-160m' " + fields +
                " }\ndata { train { prefix: 'd' } } run_dir: 'r'");
}

TEST(Config, ModelFaultsHaveThePlaceOfTheirField) {
  EXPECT_THAT(ModelFaults("num_heads: 7 rotary_pct: 1"), HasSubstr("c:1:31: model.num_heads: 7"));
  EXPECT_THAT(ModelFaults("num_heads: 256 rotary_pct: 1"), HasSubstr("c:1:46: model.rotary_pct"));
  EXPECT_THAT(ModelFaults("attention { kind: SEP window: 0 }"),
              HasSubstr("c:1:53: model.attention.window: 0"));
  EXPECT_THAT(ModelFaults("attention { kind: SEP num_initial: -1 }"),
              HasSubstr("c:1:53: model.attention.num_initial: -1"));
  EXPECT_THAT(ModelFaults("attention { kind: SEP full_layers: [0, 12] }"),
              HasSubstr("c:1:53: model.attention.full_layers: 12"));
  EXPECT_THAT(ModelFaults("attention { kind: SEP window_per_layer: [1, 2] }"),
              HasSubstr("c:1:53: model.attention.window_per_layer: 2 entries for 12 layers"));
  EXPECT_THAT(ModelFaults("attention { kind: FIXED_STRIDE }"),
              HasSubstr("c:1:31: model.attention.stride"));
  EXPECT_THAT(ModelFaults("attention { kind: SEP separator_text: [','] }"),
              HasSubstr("c:1:53: model.attention.separator_text: needs a tokenizer"));
  EXPECT_THAT(ModelFaults("attention { separator_text: ',' separator_ids: 3 }"),
              HasSubstr("c:1:43: model.attention.separator_text: stands beside separator_ids"));
}

TEST(Config, DataContradictions) {
  const auto faults = [](const std::string& data) {
    return Faults("model { preset: 'pythia-14m' }\ndata { " + data + " }\nrun_dir: 'r'");
  };
  EXPECT_THAT(faults("train { prefix: 'a' } source { prefix: 'b' }"),
              HasSubstr("c:2:30: data.source: cannot stand beside train"));
  EXPECT_THAT(faults("source { prefix: 'b' } split: '969,x'"), HasSubstr("c:2:31: data.split"));
  EXPECT_THAT(faults("source { prefix: 'b' } split: '0,0,0'"), HasSubstr("c:2:31: data.split"));
  EXPECT_THAT(faults("train { prefix: 'b' } split: '1'"),
              HasSubstr("c:2:30: data.split: only cuts"));
  EXPECT_THAT(faults("train { weight: 2 }"), HasSubstr("c:2:14: data.train[0].prefix: is missing"));
  EXPECT_THAT(faults("train { prefix: 'b' weight: -2 }"),
              HasSubstr("c:2:28: data.train[0].weight: -2 must be above 0"));
  EXPECT_THAT(
      faults("train { prefix: 'b' } sequence_length: 4096"),
      HasSubstr("c:2:30: data.sequence_length: 4096 is longer than model.max_positions 2048"));
}

TEST(Config, AllFaultsOfAllKindsComeAtOnceInTextOrder) {
  const std::string faults = Faults(
      "model { preset: \"pythia-160m\" hiden_size: 3 num_heads: 7 }\n"
      "data { train { prefix: \"x\" weight: -1 } sequence_length: 4096 }\n"
      "batch { global: 10 micro: 4 }\n"
      "sedd: 3\n"
      "seed: -1 precision: BF61 run_dir: 'r'\n",
      {"batch.gobal=3"});
  std::vector<std::string> places;
  for (size_t begin = 0; begin < faults.size();) {
    const size_t end = std::min(faults.find('\n', begin), faults.size());
    const std::string line = faults.substr(begin, end - begin);
    places.push_back(line.substr(0, line.find(": ")));
    begin = end + 1;
  }
  EXPECT_THAT(places, ElementsAre("c:1:1", "c:1:31", "c:1:45", "c:2:28", "c:2:41", "c:3:9", "c:4:1",
                                  "c:5:1", "c:5:21", "--set 'batch.gobal=3', column 7"));
}

TEST(Config, RanksEnterTheBatchCheck) {
  const std::string text = std::string(kRun) + "batch { global: 12 micro: 2 }";
  EXPECT_EQ(Faults(text, {}, {.ranks = 6}), "");
  EXPECT_THAT(Faults(text, {}, {.ranks = 4}),
              HasSubstr("not a multiple of micro 2 x 4 data ranks"));
  EXPECT_THAT(Faults(text, {"parallel.tensor=4"}, {.ranks = 6}),
              HasSubstr("4 does not divide the 6 ranks"));
}

TEST(Config, TensorRanksDivideTheVocabularyAndTheMlp) {
  EXPECT_THAT(Faults(kRun, {"parallel.tensor=4", "model.vocab_size=50306"}),
              HasSubstr("4 does not divide the 50306 tokens of the vocabulary; take 2"));
  EXPECT_THAT(Faults(kRun, {"parallel.tensor=4", "model.intermediate_size=1002"}),
              HasSubstr("4 does not divide the 1002 inner features of the MLP; take 3 or 6"));
}

TEST(Config, CudnnIsForCudaIn16Bits) {
  EXPECT_THAT(Faults(kRun, {"kernels.full_attention=CUDNN", "precision=BF16"}),
              HasSubstr("kernels.full_attention: cuDNN is for device: CUDA; set OWN"));
  EXPECT_THAT(Faults(kRun, {"kernels.full_attention=CUDNN", "device=CUDA"}),
              HasSubstr("cuDNN's attention takes no FP32"));
  const auto settings =
      LoadConfigText(kRun, "c", {"kernels.full_attention=CUDNN", "device=CUDA", "precision=BF16"})
          .settings;
  EXPECT_EQ(settings.full_attention, kernels::FullAttention::kCudnn);
}

TEST(Config, ActivationFollowsNumericsUnlessGiven) {
  const auto activation = [](const std::vector<std::string>& overrides) {
    return LoadConfigText(kRun, "c", overrides).settings.model.activation;
  };
  EXPECT_EQ(activation({}), kernels::GeluKind::kTanh);
  EXPECT_EQ(activation({"numerics=HF"}), kernels::GeluKind::kErf);
  EXPECT_EQ(activation({"numerics=HF", "model.activation=TANH_GELU"}), kernels::GeluKind::kTanh);
}

TEST(Config, DeviationsFromThePresetsAreListed) {
  const LoadedConfig config = LoadConfigText(kRun, "c",
                                             {"numerics=PYTHIA_V1", "model.num_layers=6",
                                              "schedule.kind=LINEAR", "model.activation=ERF_GELU"});
  EXPECT_THAT(config.deviations,
              ::testing::UnorderedElementsAre("model.num_layers: 6 (pythia-160m: 12)",
                                              "model.activation: ERF_GELU (PYTHIA_V1: TANH_GELU)",
                                              "schedule.kind: LINEAR (PYTHIA_V1: COSINE)",
                                              "precision: FP32 (PYTHIA_V1: FP16)",
                                              "rope_fp16_tables: false (PYTHIA_V1: true)"));
  EXPECT_THAT(
      LoadConfigText(kRun, "c", {"numerics=PYTHIA_V1", "precision=FP16", "rope_fp16_tables=true"})
          .deviations,
      IsEmpty());
}

TEST(Config, OriginsTellWhereEveryValueComesFrom) {
  const LoadedConfig config = LoadConfigText(kRun, "c", {"batch.micro=2"});
  const auto origin = [&](const std::string& path) -> std::string {
    for (const ConfigValue& value : config.values) {
      if (value.path == path) return value.value + " <- " + value.origin.where;
    }
    return "absent";
  };
  EXPECT_EQ(origin("data.train[0].prefix"), "\"d\" <- c:2:16");
  EXPECT_EQ(origin("batch.micro"), "2 <- --set 'batch.micro=2'");
  EXPECT_EQ(origin("model.num_heads"), "12 <- preset pythia-160m");
  EXPECT_EQ(origin("optimizer.lr"), "0.0006 <- preset pythia-160m");
  EXPECT_EQ(origin("schedule.decay_steps"), "143000 <- schedule.total_steps");
  EXPECT_EQ(origin("optimizer.beta2"), "0.95 <- ");
  EXPECT_EQ(origin("data.tokenizer"), " <- ");
}

TEST(Config, ResolvedTextLoadsToItself) {
  const std::vector<std::string> overrides = {"model.attention.kind=SEP",
                                              "model.attention.full_layers=[0,-1]",
                                              "optimizer.lr=0.000123",
                                              "schedule.total_steps=777",
                                              "numerics=HF",
                                              "run_dir=a\"b\\c"};
  const LoadedConfig first = LoadConfigText(kRun, "c", overrides);
  const LoadedConfig second = LoadConfigText(first.resolved_text, "resolved", {});
  EXPECT_EQ(first.resolved_text, second.resolved_text);
  EXPECT_EQ(second.settings.run_dir, "a\"b\\c");
  EXPECT_EQ(first.settings.model.attention, second.settings.model.attention);
  EXPECT_THAT(DiffConfigs(first.resolved_text, second.resolved_text), IsEmpty());
}

TEST(Config, DifferencesAreJudged) {
  using Effect = ConfigDifference::Effect;
  const std::string before = LoadConfigText(kRun, "c", {}).resolved_text;
  const auto effect = [&](const std::string& change, const std::string& path) {
    const std::string after = LoadConfigText(kRun, "c", {change}).resolved_text;
    for (const ConfigDifference& difference : DiffConfigs(before, after)) {
      if (difference.path == path) return std::optional(difference.effect);
    }
    return std::optional<Effect>();
  };
  EXPECT_EQ(effect("model.num_layers=6", "model.num_layers"), Effect::kRefuse);
  EXPECT_EQ(effect("model.attention.kind=SEP", "model.attention.kind"), Effect::kRefuse);
  EXPECT_EQ(effect("seed=1", "seed"), Effect::kRefuse);
  EXPECT_EQ(effect("data.order=LINEAR", "data.order"), Effect::kRefuse);
  EXPECT_EQ(effect("precision=BF16", "precision"), Effect::kRefuse);
  EXPECT_EQ(effect("data.train=[{prefix:'d'},{prefix:'e'}]", "data.train[1].weight"),
            Effect::kRefuse);
  EXPECT_EQ(effect("optimizer.lr=1e-4", "optimizer.lr"), Effect::kHarmless);
  EXPECT_EQ(effect("schedule.total_steps=5", "schedule.total_steps"), Effect::kHarmless);
  EXPECT_EQ(effect("run_dir=x", "run_dir"), Effect::kHarmless);
  EXPECT_EQ(effect("run_dir=r", "run_dir"), std::nullopt);
  EXPECT_THROW(DiffConfigs(before, "model {"), UserError);
}

TEST(Config, FilesThatCannotBeReadAreUsageErrors) {
  TempDir dir;
  EXPECT_THROW(LoadConfig(dir.File("absent"), {}), UserError);
  WriteFileAtomic(dir.File("big"), std::string((1 << 20) + 1, '\n'));
  EXPECT_THROW(LoadConfig(dir.File("big"), {}), UserError);
  WriteFileAtomic(dir.File("empty"), "");
  EXPECT_THAT(Faults(""), HasSubstr("run_dir is missing"));
}

TEST(ConfigDocs, EveryFieldIsDocumented) {
  for (const FieldDoc& doc : ConfigFieldDocs()) EXPECT_NE(doc.comment, "") << doc.path;
}

TEST(ConfigDocs, TheCommittedReferenceIsCurrent) {
  EXPECT_EQ(ReadFile(SourcePath("docs/config.md")), ConfigReference())
      << "run: sepia explain-config --markdown > docs/config.md";
}

TEST(ConfigDocs, ExplainNamesValueOriginAndMeaning) {
  const std::string text = ExplainConfig(LoadConfigText(kRun, "c", {}), true);
  EXPECT_THAT(text, AllOf(HasSubstr("batch.micro: 1"), HasSubstr("# preset pythia-160m"),
                          HasSubstr("    Samples per micro-batch of one data rank")));
}

TEST(ConfigInitFrom, StepsBehindTheWeightsNeedWeights) {
  const auto faults = [](std::vector<std::string> more) {
    more.insert(more.begin(), "init_from.path=\"absent\"");
    return Faults(kRun, more, {.allow_missing_files = true});
  };
  EXPECT_EQ(faults({"init_from.first_step=10", "init_from.warmup_steps=5"}), "");
  EXPECT_THAT(faults({"init_from.first_step=10", "init_from.weights_only=false"}),
              HasSubstr("goes with init_from.path and weights_only: true"));
  EXPECT_THAT(faults({"init_from.warmup_steps=10", "init_from.path=\"\""}),
              HasSubstr("goes with init_from.path and weights_only: true"));
  EXPECT_THAT(faults({"init_from.fresh_schedule=true"}),
              HasSubstr("goes with init_from.first_step"));
  EXPECT_THAT(faults({"init_from.first_step=143000"}), HasSubstr("leaves nothing to do"));
}

// GPT-NeoX's cosine is not cut at decay_steps, only that of v1.0 is.
TEST(ConfigSchedule, WarnsOfACosineThatRisesAgain) {
  const std::vector<std::string> longer = {"schedule.total_steps=200", "schedule.decay_steps=100"};
  EXPECT_THAT(LoadConfigText(kRun, "c", longer).warnings, Contains(HasSubstr("rises again")));
  std::vector<std::string> calm = longer;
  calm.push_back("schedule.kind=LINEAR");
  EXPECT_THAT(LoadConfigText(kRun, "c", calm).warnings, Not(Contains(HasSubstr("rises again"))));
  calm.back() = "numerics=PYTHIA_V1";
  EXPECT_THAT(LoadConfigText(kRun, "c", calm).warnings, Not(Contains(HasSubstr("rises again"))));
}

// init_from supplies the architecture; what is given beside it must agree.
TEST(ConfigInitFrom, SuppliesTheArchitecture) {
  SEPIA_SHARED_OR_SKIP(folder, "fixtures/models/tiny_erf");
  const LoadedConfig config = LoadModelSourceConfig(folder, {"model.attention.kind=SEP"});
  EXPECT_GT(config.settings.model.num_layers, 0);
  EXPECT_EQ(config.settings.model.activation, kernels::GeluKind::kErf);
  const LoadedConfig forced = LoadModelSourceConfig(folder, {"numerics=NEOX_2"});
  EXPECT_EQ(forced.settings.model.activation, kernels::GeluKind::kTanh);
  EXPECT_THAT(forced.warnings, Contains(HasSubstr("numerics wins")));
  try {
    LoadModelSourceConfig(folder, {"model.num_layers=99"});
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("num_layers 99 disagrees with"));
  }
}

TEST(ConfigInitFrom, MissingSourceIsBadData) {
  try {
    LoadModelSourceConfig("/absent", {});
    FAIL();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    EXPECT_THAT(error.what(), HasSubstr("init_from.path"));
  }
}

TEST(ConfigSeparators, TextGoesThroughTheTokenizer) {
  SEPIA_SHARED_OR_SKIP(tokenizer, "fixtures/curves/tokenizer.json");
  const std::vector<std::string> overrides = {
      "data.tokenizer=" + tokenizer, "model.vocab_size=50304",
      "model.attention={kind: SEP separator_text: [',', '.']}"};
  const LoadedConfig config = LoadConfigText(kRun, "c", overrides);
  EXPECT_EQ(config.settings.model.separator_ids.size(), 2u);
  EXPECT_THAT(Faults(kRun, {overrides[0], "model.attention={kind: SEP separator_text: 'not one'}"}),
              HasSubstr("\"not one\" is not a single token"));
}

TEST(ConfigSeparators, LookingAtAConfigDoesNotNeedTheTokenizer) {
  const std::vector<std::string> overrides = {
      "data.tokenizer=/absent.json", "model.attention={kind: SEP separator_text: [',', '.']}"};
  EXPECT_THROW(LoadConfigText(kRun, "c", overrides), UserError);
  const LoadedConfig config = LoadConfigText(kRun, "c", overrides, {.allow_missing_files = true});
  EXPECT_EQ(config.settings.model.separator_ids.size(), 2u);
  EXPECT_THAT(config.warnings, Contains(HasSubstr("/absent.json")));
}

}  // namespace
}  // namespace sepia::trainer
