#include "trainer/loss_scaler.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace sepia::trainer {
namespace {

LossScaleSettings Settings(int power, int window, int hysteresis, double min_scale) {
  return {.initial_scale_power = power,
          .window = window,
          .hysteresis = hysteresis,
          .min_scale = min_scale,
          .static_scale = 0};
}

// A trace worked out by hand from the rule of DeeperSpeed's update_scale, window 4, hysteresis 2.
// last_overflow starts at -1, so the first doubling comes at iteration 3.
TEST(LossScalerTest, FollowsTheRuleStepByStep) {
  LossScaler scaler(Settings(3, 4, 2, 1), Precision::kFp16);
  struct Step {
    bool overflow;
    double scale_after;
    int hysteresis_after;
  };
  const Step trace[] = {
      {false, 8, 2},   // iteration 0: (0 + 1) % 4
      {false, 8, 2},   // 1
      {false, 8, 2},   // 2
      {false, 16, 2},  // 3: (3 + 1) % 4 == 0
      {true, 16, 1},   // 4: patience, last overflow = 4
      {false, 16, 1},  // 5
      {true, 8, 1},    // 6: patience was spent; it is not restored by a single success
      {true, 4, 1},    // 7
      {false, 4, 1},   // 8: (8 - 7) % 4
      {false, 4, 1},   // 9
      {false, 4, 1},   // 10
      {false, 8, 2},   // 11: doubles, patience back
      {true, 8, 1},    // 12
      {true, 4, 1},    // 13
  };
  for (size_t i = 0; i < std::size(trace); ++i) {
    scaler.Update(trace[i].overflow, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(scaler.scale(), trace[i].scale_after) << "iteration " << i;
    EXPECT_EQ(scaler.state().hysteresis_left, trace[i].hysteresis_after) << "iteration " << i;
  }
}

TEST(LossScalerTest, StartsAtTwoToTheTwelfthAndDoublesAfterAThousand) {
  LossScaler scaler(Settings(12, 1000, 2, 1), Precision::kFp16);
  for (int i = 0; i < 999; ++i) scaler.Update(false, 1);
  EXPECT_EQ(scaler.scale(), 4096);
  scaler.Update(false, 1);
  EXPECT_EQ(scaler.scale(), 8192);
}

TEST(LossScalerTest, OverflowAtTheMinimumIsANumericalFailure) {
  LossScaler scaler(Settings(1, 10, 1, 1), Precision::kFp16);
  scaler.Update(true, 1);
  EXPECT_EQ(scaler.scale(), 1);
  try {
    scaler.Update(true, 1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNumerical);
  }
}

TEST(LossScalerTest, OnlyFp16IsScaled) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    LossScaler scaler(Settings(12, 1, 1, 1), precision);
    scaler.Update(true, 1);
    scaler.Update(false, 1);
    EXPECT_EQ(scaler.scale(), 1);
  }
  LossScaleSettings fixed = Settings(12, 1, 1, 1);
  fixed.static_scale = 64;
  LossScaler scaler(fixed, Precision::kFp16);
  scaler.Update(true, 1);
  EXPECT_EQ(scaler.scale(), 64);
}

TEST(LossScalerTest, RestoredStateContinuesAlike) {
  const LossScaleSettings settings = Settings(8, 5, 3, 1);
  LossScaler whole(settings, Precision::kFp16), second(settings, Precision::kFp16);
  const auto overflows = [](int i) { return i % 7 == 3 || i == 11; };
  for (int i = 0; i < 12; ++i) whole.Update(overflows(i), i + 1);
  second.Restore(whole.state());
  for (int i = 12; i < 60; ++i) {
    whole.Update(overflows(i), i + 1);
    second.Update(overflows(i), i + 1);
    EXPECT_EQ(whole.state(), second.state());
  }
}

}  // namespace
}  // namespace sepia::trainer
