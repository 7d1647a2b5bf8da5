// The configs in configs/ load and are the runs that they name.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/support/shared_fixtures.h"
#include "trainer/config.h"

namespace sepia::trainer {
namespace {

using ::sepia::testing::SourcePath;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

class CommittedConfig : public ::testing::TestWithParam<const char*> {};

TEST_P(CommittedConfig, Loads) {
  const LoadedConfig config =
      LoadConfig(SourcePath(std::string("configs/") + GetParam() + ".textproto"), {});
  EXPECT_EQ(config.settings.tokens_per_step(), 2097152);  // every Pythia run
  EXPECT_EQ(config.settings.schedule.total_steps, 143000);
  const std::string name = GetParam();
  if (name.find("pythia") == 0) {
    EXPECT_EQ(config.settings.numerics, Numerics::kPythiaV1);
    EXPECT_THAT(config.deviations.empty(), name != "pythia-1b");
  } else {
    EXPECT_EQ(config.settings.numerics, Numerics::kNeox2);
  }
}

INSTANTIATE_TEST_SUITE_P(All, CommittedConfig,
                         ::testing::Values("pythia-14m", "pythia-31m", "pythia-70m", "pythia-160m",
                                           "pythia-410m", "pythia-1b", "pythia-1.4b", "pythia-2.8b",
                                           "pythia-6.9b", "pythia-12b", "sepllm-160m-vanilla",
                                           "sepllm-160m-streaming-n64", "sepllm-160m-n64",
                                           "sepllm-160m-n128", "sepllm-160m-n64-h",
                                           "sepllm-160m-n64-ht", "sepllm-1.4b"));

// SepLLM's post-training, as far as it can be checked without the weights.
TEST(PostTrainingConfigs, GoOnFromStep93000) {
  for (const char* name : {"post-train-1.4b-cosine", "post-train-1.4b-rewarm",
                           "post-train-sepllm-1.4b-cosine", "post-train-sepllm-1.4b-rewarm"}) {
    SCOPED_TRACE(name);
    const std::string path = SourcePath(std::string("configs/") + name + ".textproto");
    const LoadedConfig config = LoadConfig(path, {}, {.allow_missing_files = true});
    const TrainSettings& s = config.settings;
    EXPECT_THAT(config.warnings, Contains(HasSubstr("is not there yet")));
    EXPECT_THAT(config.warnings, Not(Contains(HasSubstr("rises again"))));
    EXPECT_EQ(s.model.attention.front().kind, AttentionKind::kSep);
    EXPECT_EQ(s.model.num_heads, std::string(name).find("sepllm") == std::string::npos ? 16 : 32);
    EXPECT_EQ(s.tokens_per_step(), 2097152);
    EXPECT_EQ(s.schedule.total_steps, 143000);
    const bool fresh = std::string(name).find("rewarm") != std::string::npos;
    EXPECT_EQ(s.init_from.fresh_schedule, fresh);
    EXPECT_EQ(s.schedule.decay_steps, fresh ? 50000 : 143000);
    EXPECT_EQ(s.init_from.first_step, s.init_from.weights_only ? 93000 : 0);
    // Without the weights a run itself is refused.
    EXPECT_THROW(LoadConfig(path, {}), UserError);
  }
}

}  // namespace
}  // namespace sepia::trainer
