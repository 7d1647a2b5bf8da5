// kill -9 again and again, each time another rank, step and phase (P1): whatever was being
// computed, sent or saved, the next start goes on with the bits of a run that was never
// interrupted.
#include <cstdlib>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/philox.h"
#include "tests/distributed/failure_modes.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;

constexpr const char* kPhases[] = {"data", "forward", "backward", "gradients", "update", "save"};

TEST(KillStormTest, EveryRestartContinuesBitForBit) {
  const char* wanted = std::getenv("SEPIA_STORM_SEEDS");
  const int seeds = wanted == nullptr ? 20 : std::atoi(wanted);
  const TinyRun run;
  const Layout layout{2, 1, 1};
  // A kill is at most 4 steps after the one before.
  const int64_t steps = 4 * seeds + 4;
  const std::vector<std::string> options = {"--set", "checkpoint.every_steps=2",
                                            "--set", "checkpoint.keep_last=2",
                                            "--set", fmt::format("schedule.total_steps={}", steps),
                                            "--set", "eval.every_steps=0"};
  const auto train = [&](const std::string& name) {
    return FaultyTrain(run, name, layout, kPatient, options);
  };
  const PhiloxStream random(11, "kill storm");
  const auto draw = [&](int seed, uint64_t which, uint64_t below) {
    return static_cast<int64_t>(random.Bits(4 * static_cast<uint64_t>(seed) + which) % below);
  };
  int64_t step = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    step += 1 + draw(seed, 0, 4);
    const std::string phase = kPhases[draw(seed, 1, std::size(kPhases))];
    if (phase == "save") step += step % 2;  // the steps that save
    const int64_t rank = draw(seed, 2, 2);
    const std::string fault = fmt::format("kill rank={} step={} phase={}", rank, step, phase);
    SCOPED_TRACE(fault);
    const ProcessResult result =
        RunSepiaWhenFree(train("a"), {.ranks = layout.ranks, .fault = fault});
    ASSERT_EQ(result.code, 137) << result.output;
    ASSERT_THAT(result.output, HasSubstr("signal 9"));
  }
  ASSERT_EQ(RunSepiaWhenFree(train("a"), {.ranks = layout.ranks}).code, 0);
  ASSERT_EQ(RunSepia(train("calm"), {.ranks = layout.ranks}).code, 0);
  ExpectSameRun(run, "a", "calm", steps);
  Promise({"P1", "kill -9 of a random rank in a random phase, saves included, again and again",
           "137 each time; after the last restart every metric and every bit of the checkpoint is "
           "that of a calm run"});
}

}  // namespace
}  // namespace sepia::testing
