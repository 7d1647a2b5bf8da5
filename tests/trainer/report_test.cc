#include "trainer/report.h"

#include <cmath>
#include <string>

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"
#include "trainer/config.h"
#include "trainer/metrics.h"
#include "trainer/report_chart.h"

namespace sepia::trainer {
namespace {

using ::sepia::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Metrics(int steps) {
  std::string text;
  for (int step = 1; step <= steps; ++step) {
    StepMetrics m;
    m.step = step;
    m.loss = step == 3 ? std::nan("") : 9.0 / step;
    m.grad_norm = 1;
    m.lr = 1e-3;
    m.tokens = 100 * step;
    m.tokens_per_s = 50;
    m.step_ms = 2000;
    if (step == 2) m.valid_loss = 1.25;
    text += ToJson(m) + "\n";
  }
  return text;
}

TEST(Report, NeedsOnlyTheMetricsAndSurvivesATornLine) {
  TempDir dir;
  WriteFileAtomic(dir.File("metrics.jsonl"), Metrics(5) + "{\"schema\":1,\"step\":6,\"lo");
  const std::string page = MakeReport(dir.path() + "/");
  EXPECT_THAT(page, AllOf(HasSubstr("<!doctype html>"), HasSubstr("Gradient norm"),
                          HasSubstr("<b>1.2500</b>"), HasSubstr("1 unreadable line"),
                          HasSubstr("No picture"), Not(HasSubstr("nan"))));
  EXPECT_THAT(page, Not(HasSubstr("http")));  // self-contained
}

TEST(Report, NothingToReportIsBadData) {
  TempDir dir;
  for (const char* text : {"", "garbage\n", "{\"schema\":1"}) {
    WriteFileAtomic(dir.File("metrics.jsonl"), text);
    try {
      MakeReport(dir.path());
      FAIL() << text;
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
      EXPECT_THAT(error.what(), HasSubstr("holds no complete step"));
    }
  }
}

TEST(Report, HostileTextIsEscaped) {
  TempDir dir;
  WriteFileAtomic(dir.File("metrics.jsonl"), Metrics(1));
  CreateDirectories(dir.File("samples"));
  WriteFileAtomic(dir.File("samples/step_00000001.txt"), "<script>alert(1)</script>\xff");
  WriteFileAtomic(dir.File("config.resolved.textproto"), "<img src=x>");
  WriteFileAtomic(dir.File("manifest.json"), "{\"starts\": [3, null]}");
  const std::string page = MakeReport(dir.path());
  EXPECT_THAT(page, AllOf(HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;\xef\xbf\xbd"),
                          Not(HasSubstr("<script")), Not(HasSubstr("<img"))));
}

TEST(Report, ShowsTheMaskOfTheFirstSample) {
  SEPIA_SHARED_OR_SKIP(data, "fixtures/curves/data.idx");
  TempDir dir;
  WriteFileAtomic(dir.File("metrics.jsonl"), Metrics(2));
  const LoadedConfig config = LoadConfigText(
      "model { preset: 'pythia-14m' num_layers: 2 attention { kind: SEP window: 8 full_layers: 0 } "
      "}",
      "c",
      {"run_dir=" + dir.path(), "data.order=LINEAR", "data.sequence_length=256",
       "schedule.total_steps=3",
       "data.train={prefix: " + QuotedText(data.substr(0, data.size() - 4)) + "}"});
  WriteFileAtomic(dir.File("config.resolved.textproto"), config.resolved_text);
  const std::string page = MakeReport(dir.path());
  EXPECT_THAT(page, AllOf(HasSubstr("<b>Layer 1</b>"), HasSubstr("class=\"separator\""),
                          HasSubstr("<td>100.0 %</td>"), HasSubstr("2 / 3")));
}

TEST(Chart, DrawsWhatItIsGiven) {
  EXPECT_THAT(DrawChart({.title = "empty", .x_label = "", .series = {}, .marks = {}}),
              HasSubstr("Nothing was recorded"));
  // One point, equal values, huge spans: every coordinate stays a number.
  for (const std::vector<std::pair<double, double>>& points :
       std::vector<std::vector<std::pair<double, double>>>{
           {{1, 5}}, {{1, 0}, {2, 0}}, {{1, 1e-300}, {2, 1e300}}, {{1, -1}, {5, 7}}}) {
    for (const bool log_y : {false, true}) {
      const std::string svg =
          DrawChart({.title = "t",
                     .x_label = "x",
                     .series = {{.name = "s", .css_class = "plain", .points = points}},
                     .marks = {1.5},
                     .log_y = log_y});
      EXPECT_THAT(svg, AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf"))));
      EXPECT_LT(svg.size(), 20000u);
    }
  }
}

TEST(Chart, ThinningKeepsTheExtremes) {
  std::vector<std::pair<double, double>> points;
  for (int i = 0; i < 50000; ++i) points.emplace_back(i, i == 30000 ? 100 : i % 7);
  const std::string svg =
      DrawChart({.title = "t",
                 .x_label = "x",
                 .series = {{.name = "s", .css_class = "plain", .points = points}},
                 .marks = {}});
  EXPECT_LT(svg.size(), 60000u);
  // The peak touches the top of the plot: y = 10.
  EXPECT_THAT(svg, HasSubstr(",10.0 "));
}

}  // namespace
}  // namespace sepia::trainer
