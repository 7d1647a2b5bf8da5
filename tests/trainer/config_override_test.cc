// --set path=value: the config grammar on the command line.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/trainer/config_faults.h"
#include "trainer/config.h"

namespace sepia::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ConfigOverride, ReplacesValuesListsAndMessages) {
  const std::string text = std::string(kRun) +
                           "optimizer { lr: 1e-3 beta1: 0.8 }\n"
                           "samples { prompt: ['a', 'b'] }\n";
  const LoadedConfig config = LoadConfigText(
      text, "c",
      {"model.attention.kind=SEP", "model.attention.window = 128",
       "model.attention.full_layers=[0,-1]", "precision=BF16", "run_dir=runs/a b#c",
       "optimizer{lr:6e-4}", "samples.prompt=Once upon", "data.train[0].prefix=\"q\"",
       "data.valid=[{prefix:'v' weight:2},{prefix:'w'}]", "seed=1", "seed=2"});
  const TrainSettings& s = config.settings;
  EXPECT_EQ(s.model.attention[0].kind, AttentionKind::kFull);
  EXPECT_EQ(s.model.attention[1].window, 128);
  EXPECT_EQ(s.model.attention[11].kind, AttentionKind::kFull);
  EXPECT_EQ(s.precision, Precision::kBf16);
  EXPECT_EQ(s.run_dir, "runs/a b#c");
  EXPECT_EQ(s.optimizer.lr, 6e-4);
  EXPECT_EQ(s.optimizer.beta1, 0.8);  // a message is merged
  EXPECT_THAT(s.samples.prompt, ElementsAre("Once upon"));
  EXPECT_EQ(s.data.train[0].prefix, "q");
  ASSERT_EQ(s.data.valid.size(), 2u);
  EXPECT_EQ(s.data.valid[1].prefix, "w");
  EXPECT_EQ(s.seed, 2u);  // the last one holds
}

TEST(ConfigOverride, FaultsNameTheOverrideAndTheColumn) {
  const auto fault = [](const std::string& text) { return Faults(kRun, {text}); };
  EXPECT_EQ(
      fault("model.atention.window=3"),
      "--set 'model.atention.window=3', column 7: unknown field \"atention\" in model; did you "
      "mean \"attention\"?");
  EXPECT_EQ(fault("batch.micro=x"),
            "--set 'batch.micro=x', column 13: batch.micro: expected a whole number, found \"x\"");
  EXPECT_EQ(fault("batch.micro=1 2"),
            "--set 'batch.micro=1 2', column 15: unexpected \"2\" after the value");
  EXPECT_EQ(fault("batch.micro"),
            "--set 'batch.micro', column 12: expected \"=\" after batch.micro");
  EXPECT_EQ(fault(""), "--set '', column 1: expected path=value, for example batch.micro=4");
  EXPECT_EQ(fault("=3"), "--set '=3', column 1: expected path=value, for example batch.micro=4");
  EXPECT_THAT(fault("data.train[1].prefix=x"), HasSubstr("column 11: data.train is repeated"));
  EXPECT_THAT(fault("data.train.prefix=x"), HasSubstr("column 11: data.train is repeated"));
  EXPECT_THAT(fault("seed.x=1"), HasSubstr("column 5: seed has no fields of its own"));
  EXPECT_THAT(fault("batch.micro=[1,2]"), HasSubstr("takes one value, not a list"));
  EXPECT_THAT(fault("samples.prompt=[a]"), HasSubstr("expected a text in quotes"));
}

}  // namespace
}  // namespace sepia::trainer
