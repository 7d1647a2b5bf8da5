// The commands that plan and examine runs of several ranks, as a user meets them.
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/e2e/sepia_process.h"
#include "tests/support/temp_dir.h"

namespace sepia::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// What the program printed, between lines of mpirun and of the log.
std::vector<json> JsonLines(const std::string& output) {
  std::vector<json> lines;
  std::istringstream in(output);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with('{')) lines.push_back(json::parse(line));
  }
  return lines;
}

TEST(BenchCollectives, PrintALineASizeWithTheBandwidthsOfNcclTests) {
  const struct {
    const char* command;
    double bus_factor;  // of two ranks
  } cases[] = {{"allreduce", 1}, {"reduce_scatter", 0.5}, {"all_gather", 0.5}};
  for (const auto& [command, bus_factor] : cases) {
    SCOPED_TRACE(command);
    const ProcessResult result =
        RunSepia({"bench", command, "--sizes", "1KiB,3MiB", "--dtype", "bf16", "--repeats", "3"},
                 {.ranks = 2});
    ASSERT_EQ(result.code, 0) << result.output;
    const std::vector<json> lines = JsonLines(result.output);
    ASSERT_EQ(lines.size(), 2u) << result.output;
    EXPECT_EQ(lines[0]["size"], 1024);
    EXPECT_EQ(lines[1]["size"], 3 << 20);
    for (const json& line : lines) {
      EXPECT_EQ(line["bench"], command);
      EXPECT_EQ(line["ranks"], 2);
      EXPECT_LE(line["min_s"], line["median_s"]);
      EXPECT_LE(line["median_s"], line["max_s"]);
      const double algbw = line["size"].get<double>() / line["median_s"].get<double>() / 1e9;
      EXPECT_NEAR(line["algbw"].get<double>() / algbw, 1, 1e-12);
      EXPECT_NEAR(line["busbw"].get<double>() / algbw, bus_factor, 1e-12);
    }
  }
}

TEST(BenchCollectives, WorkOnAxesOnThreadsAndAlone) {
  const ProcessResult axis = RunSepia(
      {"bench", "allreduce", "--sizes", "1KiB", "--axis", "data", "--tensor", "2"}, {.ranks = 2});
  ASSERT_EQ(axis.code, 0) << axis.output;
  EXPECT_EQ(JsonLines(axis.output)[0]["ranks"], 1);
  EXPECT_EQ(JsonLines(axis.output)[0]["world"], 2);

  const ProcessResult threads =
      RunSepia({"bench", "all_gather", "--sizes", "1MiB", "--thread-ranks", "3"});
  ASSERT_EQ(threads.code, 0) << threads.output;
  const json line = JsonLines(threads.output)[0];
  EXPECT_EQ(line["over"], "threads");
  EXPECT_NEAR(line["busbw"].get<double>() / line["algbw"].get<double>(), 2.0 / 3, 1e-12);

  const ProcessResult alone = RunSepia({"bench", "allreduce", "--sizes", "1KiB"});
  ASSERT_EQ(alone.code, 0) << alone.output;
  EXPECT_EQ(JsonLines(alone.output)[0]["busbw"], 0);
  EXPECT_THAT(alone.output, HasSubstr("a group of one rank sends nothing"));
  EXPECT_EQ(RunSepia({"bench", "allreduce", "--sizes", "5 apples"}).code, 2);
}

TEST(Doctor, MeasuresTheAxesOfSeveralRanks) {
  const ProcessResult result = RunSepia({"doctor", "--tensor", "2"}, {.ranks = 2});
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("MPI         "), HasSubstr("ranks       2 ranks on "),
                    HasSubstr("tensor      2 ranks: "), HasSubstr("data        one rank"),
                    HasSubstr("in a node   "), Not(HasSubstr("BAD"))));
}

TEST(Doctor, EndsAllRanksWith78WhereTrainingCannotBe) {
  const ProcessResult result =
      RunSepia({"doctor", "--quick", "--dir", "/nowhere/at/all"}, {.ranks = 2});
  EXPECT_EQ(result.code, 78) << result.output;
  EXPECT_THAT(result.output, HasSubstr("BAD   disk"));
}

// A config that names no data.
std::string WriteConfig(const TempDir& dir) {
  const std::string path = dir.File("plan.textproto");
  WriteFileAtomic(path,
                  "model { preset: 'pythia-14m' attention { kind: SEP window: 64 } }\n"
                  "data { sequence_length: 128 } batch { global: 4 micro: 2 }\n");
  return path;
}

TEST(Plan, RanksLayoutsOfThisMachine) {
  const TempDir dir;
  const ProcessResult result =
      RunSepia({"plan", WriteConfig(dir), "--gpus", "6", "--nodes", "2", "--all", "--json"});
  ASSERT_EQ(result.code, 2) << result.output;  // 4 samples for 6 ranks
  const std::vector<json> lines = JsonLines(result.output);
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0]["plan"], "hardware");
  EXPECT_EQ(lines[0]["measured"], true);
  EXPECT_THAT(result.output, HasSubstr("is not a multiple of 6 data ranks"));
  EXPECT_THAT(result.output, HasSubstr("does not divide the 4 heads"));

  const ProcessResult two = RunSepia({"plan", WriteConfig(dir), "--gpus", "2", "--all", "--json"});
  ASSERT_EQ(two.code, 0) << two.output;
  double last = 0;
  int configured = 0;
  for (const json& line : JsonLines(two.output)) {
    if (line["plan"] != "layout") continue;
    int64_t memory = 0;
    for (const auto& [part, bytes] : line["memory"].items()) memory += bytes.get<int64_t>();
    EXPECT_EQ(line["memory_bytes"], memory);
    double seconds = 0;
    for (const auto& [part, s] : line["parts_s"].items()) seconds += s.get<double>();
    EXPECT_NEAR(line["step_s"].get<double>() / seconds, 1, 1e-9);
    EXPECT_GE(line["step_s"].get<double>(), last);
    last = line["step_s"];
    configured += line["configured"].get<bool>();
  }
  EXPECT_GT(last, 0);
  EXPECT_EQ(configured, 1);
}

TEST(Plan, LabelsWhatWasNeverMeasured) {
  const TempDir dir;
  const ProcessResult result =
      RunSepia({"plan", WriteConfig(dir), "--gpus", "4", "--hardware", "h100", "--density", "0.2"});
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("EXTRAPOLATED"), HasSubstr("fastest first"), HasSubstr("assumed:"),
                    HasSubstr("20.0 % separators (as given)")));
}

}  // namespace
}  // namespace sepia::testing
