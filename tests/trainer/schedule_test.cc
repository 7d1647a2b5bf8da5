#include "trainer/schedule.h"

#include <cmath>
#include <cstring>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::trainer {
namespace {

int64_t UlpsApart(double a, double b) {
  int64_t x, y;
  std::memcpy(&x, &a, sizeof x);
  std::memcpy(&y, &b, sizeof y);
  return std::abs(x - y);
}

// Rates that NeoX's own AnnealingLR computed. 1 ulp: cos of another libm.
TEST(ScheduleTest, ReproducesEveryPublishedRate) {
  SEPIA_SHARED_OR_SKIP(path, "fixtures/data/lr/lr.json");
  const auto rows = nlohmann::json::parse(ReadFile(path));
  int64_t compared = 0;
  for (const auto& row : rows) {
    const std::string style = row["decay_style"], version = row["version"];
    if (style == "exponential") continue;  // no Pythia or SepLLM run used it
    const Schedule schedule = {.kind = style == "cosine"   ? ScheduleKind::kCosine
                                       : style == "linear" ? ScheduleKind::kLinear
                                                           : ScheduleKind::kConstant,
                               .neox_v1 = version == "neox_v1.0" || version == "neox_v2.0",
                               .lr = row["start_lr"],
                               .min_lr = row["min_lr"],
                               .warmup_steps = row["warmup_iter"],
                               .decay_steps = row["total_iters"]};
    for (size_t i = 0; i < row["lr"].size(); ++i) {
      const int64_t n =
          row["iters"].is_array() ? row["iters"][i].get<int64_t>() : static_cast<int64_t>(i);
      // NeoX main takes max(1, n) in the warm-up; NEOX_2 follows SepLLM, whose first rate is 0.
      if (version == "neox_main_ea7aefd" && n == 0) continue;
      const double expected = row["lr"][i];
      EXPECT_LE(UlpsApart(LearningRate(schedule, n), expected), 1)
          << row["version"] << " " << style << " n=" << n << " expected " << expected;
      ++compared;
    }
  }
  EXPECT_GT(compared, 9000);
}

TEST(ScheduleTest, PythiaReferencePoints) {
  const Schedule pythia = {.kind = ScheduleKind::kCosine,
                           .neox_v1 = true,
                           .lr = 6e-4,
                           .min_lr = 6e-5,
                           .warmup_steps = 1430,
                           .decay_steps = 143000};
  EXPECT_EQ(LearningRate(pythia, 0), 0);
  EXPECT_DOUBLE_EQ(LearningRate(pythia, 1430), 6e-4);
  EXPECT_NEAR(LearningRate(pythia, 71500), 3.0942e-4, 5e-9);
  EXPECT_GT(LearningRate(pythia, 115138), 6e-5);
  EXPECT_EQ(LearningRate(pythia, 115139), 6e-5);
}

TEST(ScheduleTest, WarmupStableDecay) {
  const Schedule wsd = {.kind = ScheduleKind::kWarmupStableDecay,
                        .lr = 1,
                        .min_lr = 0.1,
                        .warmup_steps = 2.5,
                        .decay_steps = 100,
                        .wsd_decay_steps = 10};
  EXPECT_EQ(LearningRate(wsd, 0), 0);
  EXPECT_DOUBLE_EQ(LearningRate(wsd, 1), 0.4);
  EXPECT_EQ(LearningRate(wsd, 3), 1);
  EXPECT_EQ(LearningRate(wsd, 90), 1);
  EXPECT_DOUBLE_EQ(LearningRate(wsd, 95), 0.55);
  EXPECT_EQ(LearningRate(wsd, 100), 0.1);
  EXPECT_EQ(LearningRate(wsd, 1000), 0.1);
}

}  // namespace
}  // namespace sepia::trainer
