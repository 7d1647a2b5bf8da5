#include "trainer/metrics.h"

#include <cmath>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "trainer/duration.h"
#include "trainer/log_line.h"
#include "trainer/zscore.h"

namespace sepia::trainer {
namespace {

StepMetrics Example(int64_t step) {
  StepMetrics m;
  m.step = step;
  m.loss = 7.1358723640441895;
  m.grad_norm = 0.1;
  m.lr = 5e-324;  // the smallest double
  m.tokens = 2048 * step;
  m.step_ms = 796.25;
  m.rss_bytes = int64_t{1} << 53;
  return m;
}

TEST(MetricsTest, NumbersRoundTripExactly) {
  const auto object = nlohmann::json::parse(ToJson(Example(3)));
  EXPECT_EQ(object["loss"].get<double>(), 7.1358723640441895);
  EXPECT_EQ(object["lr"].get<double>(), 5e-324);
  EXPECT_EQ(object["rss_bytes"].get<int64_t>(), int64_t{1} << 53);
  EXPECT_EQ(object["nan"], false);
  EXPECT_TRUE(object["mfu"].is_null());
  for (const char* name : {"step", "loss", "grad_norm", "lr", "loss_scale", "tokens",
                           "tokens_per_s", "step_ms", "data_ms", "comm_ms", "comm_hidden", "mfu",
                           "attn_kept", "flops", "rss_bytes", "skipped", "nan", "schema"}) {
    EXPECT_TRUE(object.contains(name)) << name;
  }
}

TEST(MetricsTest, NonFiniteIsNullAndMarked) {
  StepMetrics m = Example(1);
  m.grad_norm = INFINITY;
  const auto object = nlohmann::json::parse(ToJson(m));
  EXPECT_TRUE(object["grad_norm"].is_null());
  EXPECT_EQ(object["nan"], true);
}

TEST(MetricsTest, ResumeCutsBackToCompleteLinesUpToTheCheckpoint) {
  const testing::TempDir dir;
  const std::string path = dir.File("metrics.jsonl");
  {
    MetricsFile file(path, 0);
    for (int step = 1; step <= 9; ++step) file.Append(Example(step));
  }
  std::ofstream(path, std::ios::app) << ToJson(Example(10)).substr(0, 40);  // torn
  {
    MetricsFile file(path, 100);
    ASSERT_EQ(file.history().size(), 9u);
    EXPECT_EQ(file.history().back().step, 9);
    EXPECT_EQ(file.history().back().loss, 7.1358723640441895);
  }
  {
    MetricsFile file(path, 6);
    EXPECT_EQ(file.history().size(), 6u);
    file.Append(Example(7));
  }
  std::string expected;
  for (int step = 1; step <= 7; ++step) expected += ToJson(Example(step)) + "\n";
  EXPECT_EQ(ReadFile(path), expected);
}

TEST(MetricsTest, GarbageIsCutOff) {
  const testing::TempDir dir;
  const std::string path = dir.File("metrics.jsonl");
  std::ofstream(path) << ToJson(Example(1)) << "\n{\"step\": \"2\"}\n"
                      << ToJson(Example(3)) << "\n";
  MetricsFile file(path, 100);
  EXPECT_EQ(ReadFile(path), ToJson(Example(1)) + "\n");
}

TEST(ZScoreTest, MatchesTheDefinition) {
  ZScore z(4);
  for (const double value : {1.0, 2.0, 3.0}) EXPECT_TRUE(std::isnan(z.Push(value)));
  EXPECT_TRUE(std::isnan(z.Push(NAN)));
  EXPECT_TRUE(std::isnan(z.Push(4.0)));
  // Window 1 2 3 4: mean 2.5, variance 1.25.
  EXPECT_DOUBLE_EQ(z.Push(5), 2.5 / std::sqrt(1.25));
  // Window 2 3 4 5.
  EXPECT_DOUBLE_EQ(z.Push(3.5), 0);
}

TEST(LogLineTest, IsTheDocumentedLine) {
  StepMetrics m;
  m.step = 1200;
  m.loss = 4.18731;
  m.grad_norm = 0.82;
  m.lr = 6e-4;
  m.tokens_per_s = 41234;
  m.step_ms = 796;
  m.comm_ms = 72;
  m.mfu = 0.3811;
  m.rss_bytes = int64_t{11} << 30;
  EXPECT_EQ(FormatLogLine(m, 143000, 31 * 3600.0),
            "step 1200/143000 0.84% loss 4.1873 gnorm 0.82 lr 6.00e-4 41.2k tok/s 796 ms "
            "(data 0 comm 9%) MFU 38.1% mem 11.0G ETA 1d 7h");
  EXPECT_EQ(FormatRate(0), "0");
  EXPECT_EQ(FormatRate(1.5e-12), "1.50e-12");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1310000), "1.31M");
}

TEST(DurationTest, TakesWhatPeopleWrite) {
  EXPECT_EQ(ParseDuration("90"), 90);
  EXPECT_EQ(ParseDuration("90s"), 90);
  EXPECT_EQ(ParseDuration("1.5h"), 5400);
  EXPECT_EQ(ParseDuration("3h45m"), 13500);
  EXPECT_EQ(ParseDuration("1d12h"), 129600);
  for (const char* bad : {"", "h", "3x", "-5s", "0", "3h45", "1e3s", "inf", "nan", "5 m", "5mm"}) {
    EXPECT_THROW(ParseDuration(bad), UserError) << bad;
  }
}

}  // namespace
}  // namespace sepia::trainer
