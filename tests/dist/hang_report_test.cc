// Records, reports and verdicts, without processes.
#include "dist/hang_report.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/flight_recorder.h"
#include "dist/thread_ranks.h"

namespace sepia::dist {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using Reports = std::vector<std::optional<HangReport>>;
const std::vector<std::string> kNodes = {"n0", "n0", "n1"};

// A rank that has done `labels` in group "world" and waits in the last one unless `done`.
HangReport Report(int rank, const std::vector<std::string>& labels, bool done = false) {
  FlightRecorder recorder;
  recorder.SetPhase(7, "backward");
  int64_t number = 0;
  for (const std::string& label : labels) {
    const int64_t call = recorder.Asked("world", ++number, "AllReduce", label, 4);
    recorder.Started(call);
    if (done || number < static_cast<int64_t>(labels.size())) recorder.Done(call);
  }
  return {.rank = rank,
          .node = kNodes[static_cast<size_t>(rank)],
          .process = 1,
          .reason = "test",
          .now = 0,
          .stalled = 0,
          .record = recorder.Read(),
          .threads = {}};
}

std::string Verdict(const Reports& reports) { return HangVerdict(reports, kNodes); }

TEST(HangVerdictTest, NamesTheRankThatDoesNotAnswer) {
  const std::string verdict = Verdict({Report(0, {"a", "b"}), std::nullopt, Report(2, {"a", "b"})});
  EXPECT_THAT(verdict, HasSubstr("rank 1 (on n0) does not answer"));
  EXPECT_THAT(verdict, HasSubstr("rank 0 waits in call 2 of group world, AllReduce \"b\" of 4 "
                                 "bytes, phase \"backward\" of step 7"));
  EXPECT_THAT(Verdict({std::nullopt, std::nullopt, Report(2, {"a"})}),
              HasSubstr("ranks 0 and 1 (the first on n0) do not answer"));
}

TEST(HangVerdictTest, NamesTheRankThatIsInNoCollective) {
  EXPECT_THAT(Verdict({Report(0, {"a", "b"}), Report(1, {"a", "b"}), Report(2, {"a"}, true)}),
              HasSubstr("rank 2 (on n1) is late: in phase \"backward\" of step 7"));
}

TEST(HangVerdictTest, NamesTheRankWhoseCallsDiffer) {
  for (const int odd : {0, 1, 2}) {
    Reports reports;
    for (const int rank : {0, 1, 2}) {
      reports.emplace_back(Report(rank, rank == odd ? std::vector<std::string>{"a", "c"}
                                                    : std::vector<std::string>{"a", "b"}));
    }
    EXPECT_THAT(Verdict(reports),
                AllOf(HasSubstr("rank " + std::to_string(odd) + " (on "),
                      HasSubstr("called AllReduce \"c\" of 4 bytes as call 2 of group world"),
                      HasSubstr("called AllReduce \"b\"")));
  }
}

TEST(HangVerdictTest, SuspectsTheNetworkWhenAllWaitInTheSameCall) {
  EXPECT_THAT(Verdict({Report(0, {"a"}), Report(1, {"a"}), Report(2, {"a"})}),
              HasSubstr("the network between n0, n1 is suspect"));
}

TEST(HangReportTest, SurvivesItsJson) {
  HangReport report = Report(2, {"first", "the \"second\"\n"});
  report.threads = {{.thread = 5, .name = "communication", .frames = {"main"}}};
  const std::string json = ToJson(report);
  EXPECT_THAT(json, HasSubstr("\"state\": \"running\""));
  const auto parsed = ParseHangReport(json);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->rank, 2);
  EXPECT_EQ(parsed->node, "n1");
  EXPECT_EQ(parsed->record.step, 7);
  ASSERT_EQ(parsed->record.collectives.size(), 2u);
  EXPECT_EQ(parsed->record.collectives[1].label.view(), "the \"second\"\n");
  EXPECT_EQ(parsed->record.collectives[0].state, Collective::State::kDone);
  EXPECT_EQ(parsed->record.collectives[1].state, Collective::State::kRunning);
  for (size_t size = 0; size + 1 < json.size(); size += 7) {  // the last byte is a newline
    EXPECT_FALSE(ParseHangReport(json.substr(0, size)).has_value()) << size;
  }
}

TEST(FlightRecorderTest, KeepsTheLastCalls) {
  FlightRecorder recorder;
  const int64_t calls = FlightRecorder::kCapacity + 100;
  for (int64_t i = 1; i <= calls; ++i) {
    recorder.Started(recorder.Asked("world", i, "AllReduce", std::string(100, 'x'), i));
  }
  recorder.Done(3);  // long forgotten
  const auto record = recorder.Read();
  ASSERT_EQ(record.collectives.size(), FlightRecorder::kCapacity);
  EXPECT_EQ(record.collectives.front().call, 101);
  EXPECT_EQ(record.collectives.back().call, calls);
  EXPECT_EQ(record.collectives.back().label.view(), std::string(48, 'x'));
  for (const Collective& c : record.collectives) EXPECT_EQ(c.state, Collective::State::kRunning);
}

// The calls of real communicators, groups told apart.
TEST(FlightRecorderTest, SeesTheCallsOfAllGroups) {
  RunThreadRanks(4, [](std::unique_ptr<Communicator> world) {
    kernels::Context ctx;
    const auto part = world->Split(world->rank() % 2, world->rank(), "part");
    float value = 1;
    part->AllReduce(ctx, TensorView(&value, DType::kFloat32, {1}), ReduceOp::kSum, "a sum").Wait();
    world->Barrier("the end");
    const auto record = world->recorder()->Read();
    ASSERT_EQ(record.collectives.size(), 3u);
    EXPECT_EQ(record.collectives[0].operation.view(), "Split");
    EXPECT_EQ(record.collectives[1].group.view(), world->rank() % 2 == 0 ? "part[0]" : "part[1]");
    EXPECT_EQ(record.collectives[1].label.view(), "a sum");
    EXPECT_EQ(record.collectives[1].bytes, 4);
    EXPECT_EQ(record.collectives[1].group_call, 1);
    EXPECT_EQ(record.collectives[2].group.view(), "world");
    EXPECT_EQ(record.collectives[2].group_call, 2);
    EXPECT_GE(record.collectives[2].asked, record.collectives[1].done);
  });
}

}  // namespace
}  // namespace sepia::dist
