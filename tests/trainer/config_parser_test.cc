// The text-proto reader against protobuf's own, and against damage.
#include "trainer/config_parser.h"

#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "tests/trainer/config_faults.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

using ::testing::HasSubstr;

TEST(ConfigParser, AgreesWithTextFormatOnWhatItAccepts) {
  const std::vector<std::string> texts = {
      "seed: 0x1F # comment\nmodel < num_layers: 3, attention: { window: 5; full_layers: [1, -2] } "
      ">",
      "optimizer { lr: 1e-3 min_lr: 3 clip: .5f eps: 1.5E-8 }",
      "data { train: [ { prefix: 'a\\n\\x41' 'b' }, < weight: 2 > ] split: \"1,2\" }",
      "samples { prompt: 'x' prompt: [\"y\", 'z'] } precision: FP16 recompute: true",
  };
  for (const std::string& text : texts) {
    ConfigSources sources("c");
    ConfigFaults faults(&sources);
    ConfigPlaces places;
    config::TrainConfig ours;
    config::TrainConfig theirs;
    ParseConfigText(text, 0, &ours, &places, &faults);
    EXPECT_TRUE(faults.empty()) << text;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &theirs)) << text;
    EXPECT_EQ(ours.DebugString(), theirs.DebugString());
  }
}

TEST(ConfigParser, DeepNestingIsHarmless) {
  std::string nested;
  for (int i = 0; i < 200000; ++i) nested += "model{";
  EXPECT_THAT(Faults(nested), HasSubstr("unknown field \"model\" in model"));
  std::string unknown;
  for (int i = 0; i < 200000; ++i) unknown += "x{";
  EXPECT_THAT(Faults(unknown), HasSubstr("unknown field \"x\""));
  EXPECT_THAT(Faults(kRun, {unknown}), HasSubstr("unknown field \"x\""));
}

// Random damage: a clean message or a config that loads, never anything else; and what we accept,
// TextFormat accepts with the same values.
TEST(ConfigParser, MutatedTextNeverCrashes) {
  const std::string good = LoadConfigText(kRun, "c", {"model.attention.kind=SEP"}).resolved_text;
  const std::string alphabet = "{}[]<>:,;#\"'\\-+.0123456789eExabc_ \n\t\x01\xff";
  std::mt19937 random(7);
  for (int round = 0; round < 1500; ++round) {
    std::string text = good;
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int change = 0; change < changes && !text.empty(); ++change) {
      const size_t at = random() % text.size();
      const char letter = alphabet[random() % alphabet.size()];
      switch (random() % 4) {
        case 0: text[at] = letter; break;
        case 1: text.insert(at, 1, letter); break;
        case 2: text.erase(at, 1 + random() % 8); break;
        default: text.resize(at + 1); break;
      }
    }
    ConfigSources sources("c");
    ConfigFaults faults(&sources);
    ConfigPlaces places;
    config::TrainConfig ours;
    ParseConfigText(text, 0, &ours, &places, &faults);
    if (!faults.empty()) {
      EXPECT_THROW(LoadConfigText(text, "c", {}), UserError);
      continue;
    }
    config::TrainConfig theirs;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &theirs)) << text;
    EXPECT_EQ(ours.SerializeAsString(), theirs.SerializeAsString()) << text;
    try {
      LoadConfigText(text, "c", {});
    } catch (const UserError&) {
    }
  }
}

TEST(ConfigParser, MutatedOverridesNeverCrash) {
  const std::string alphabet = "{}[]<>:=,.#\"'\\-+0123456789abcmodel_ \n\xff";
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::string text = round % 2 == 0 ? "model.attention.full_layers=[0,-1]"
                                      : "data.train[0]{prefix:'a' weight:1.5}";
    const int changes = 1 + static_cast<int>(random() % 6);
    for (int change = 0; change < changes; ++change) {
      text.insert(random() % (text.size() + 1), 1, alphabet[random() % alphabet.size()]);
      if (random() % 2 == 0) text.erase(random() % text.size(), 1);
    }
    try {
      LoadConfigText(kRun, "c", {text});
    } catch (const UserError&) {
    }
  }
}

}  // namespace
}  // namespace sepia::trainer
