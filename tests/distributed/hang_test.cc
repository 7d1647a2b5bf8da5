// Ranks that stop, hang or leave a collective out: the job ends with 71 and names the rank (P2); a
// rank that dies is named at once (P1).
#include <algorithm>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/distributed/failure_modes.h"

namespace sepia::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Steps 1 to 7 must not come near it: their validation and the save of step 5, which waits for the
// disk again and again.
constexpr double kLimit = 6;
// Far more than detection, reports and mpirun's own end take on a busy machine; a hang is longer.
constexpr double kBounded = 60;

nlohmann::json HangReportOf(const TinyRun& run, const std::string& name, int rank) {
  return nlohmann::json::parse(
      ReadFile(fmt::format("{}/hang/rank_{}.json", run.RunDir(name), rank)));
}

// A run with a fault in step 8, which must end in bounded time.
class HangTest : public FaultTest {
 protected:
  TimedResult FailOn(const Layout& layout, const std::string& fault, int code) {
    layout_ = layout;
    options_ = {"--set", "checkpoint.async=false"};  // step 5 is saved when step 8 begins
    limit_ = kLimit;
    TimedResult result = Fail(fault);
    EXPECT_EQ(result.code, code) << result.output;
    EXPECT_LT(result.seconds, kBounded);
    return result;
  }
};

TEST_F(HangTest, AStoppedRankIsNamed) {
  const TimedResult result = FailOn({3, 1, 0}, "stop rank=1 step=8 phase=backward", 71);
  EXPECT_THAT(result.output, HasSubstr("hang: rank 1 (on "));
  EXPECT_THAT(result.output, HasSubstr("does not answer"));
  EXPECT_THAT(result.output, HasSubstr("phase \"gradients\" of step 8"));
  for (const int rank : {0, 2}) {
    const nlohmann::json report = HangReportOf(run_, "a", rank);
    EXPECT_EQ(report["rank"], rank);
    EXPECT_EQ(report["step"], 8);
    EXPECT_EQ(report["phase"], "gradients");
    const auto& calls = report["collectives"];
    const auto first = std::find_if(calls.begin(), calls.end(),
                                    [](const auto& call) { return call["state"] != "done"; });
    ASSERT_NE(first, calls.end()) << report;
    EXPECT_EQ((*first)["state"], "running") << report;
    EXPECT_EQ((*first)["group"], "data[0]");
    bool names_a_function = false;
    for (const auto& thread : report["threads"]) {
      for (const auto& frame : thread["frames"]) {
        names_a_function =
            names_a_function || frame.get<std::string>().find("sepia::") != std::string::npos;
      }
    }
    EXPECT_TRUE(names_a_function) << report["threads"];
  }
  EXPECT_FALSE(FileExists(run_.RunDir("a") + "/hang/rank_1.json"));
  ExpectTheSameAfterAnotherStart();
  // The evidence stays.
  EXPECT_TRUE(FileExists(run_.RunDir("a") + "/hang-1/rank_0.json"));
  Promise(
      {"P2", "a rank is stopped (SIGSTOP) in the backward pass",
       "71 after `safety.hang_seconds`; the silent rank and its node are named, every live rank "
       "leaves `hang/rank_N.json`; the next start continues bit for bit"});
}

TEST_F(HangTest, ARankThatLeavesACollectiveOutIsNamed) {
  const TimedResult result = FailOn({3, 1, 0}, "skip rank=2 step=8", 71);
  EXPECT_THAT(result.output, HasSubstr("hang: rank 2 (on "));
  EXPECT_THAT(result.output, HasSubstr("called"));
  EXPECT_THAT(result.output, HasSubstr("AllReduce \"targets\" of 8 bytes"));
  for (const int rank : {0, 1, 2}) EXPECT_EQ(HangReportOf(run_, "a", rank)["rank"], rank);
  ExpectTheSameAfterAnotherStart();
  Promise({"P2", "a rank leaves a collective out",
           "71; the rank is named with its call and what the others called; the next start "
           "continues bit for bit"});
}

TEST_F(HangTest, ARankThatHangsInItsOwnCodeIsNamed) {
  const TimedResult result = FailOn({4, 2, 1}, "hang rank=3 step=8 phase=update", 71);
  EXPECT_THAT(result.output, HasSubstr("hang: rank 3 (on "));
  EXPECT_THAT(result.output, HasSubstr("is late: in phase \"update\" of step 8"));
  Promise({"P2", "a rank hangs in its own code",
           "71; the rank is named with its phase, its backtrace is in `hang/rank_N.json`"});
}

TEST_F(HangTest, ARankThatDiesIsNamedAtOnce) {
  const TimedResult result = FailOn({2, 1, 0}, "kill rank=1 step=8 phase=forward", 137);
  EXPECT_THAT(result.output, AllOf(HasSubstr("rank 1 (on "), HasSubstr("has ended without a word"),
                                   HasSubstr("of step 8"), HasSubstr("signal 9")));
  EXPECT_THAT(result.output, Not(HasSubstr("hang:")));
  Promise({"P1", "a rank is killed (kill -9)",
           "137 within seconds; mpirun names rank and node, a survivor the rank, step, phase and "
           "the collective that waits for it"});
}

TEST_F(HangTest, ARankThatCrashesIsNamedAtOnce) {
  const TimedResult result = FailOn({2, 2, 0}, "crash rank=0 step=8 phase=backward", 139);
  EXPECT_THAT(result.output, HasSubstr("rank 0 (on "));
  EXPECT_THAT(result.output, HasSubstr("signal 11"));
  Promise({"P1", "a rank crashes (SIGSEGV)", "139; named as a killed one"});
}

}  // namespace
}  // namespace sepia::testing
