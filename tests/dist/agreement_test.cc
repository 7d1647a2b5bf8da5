// Failures of single ranks become one failure of all.
#include "dist/agreement.h"

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/log.h"
#include "dist/flight_recorder.h"
#include "dist/launcher.h"
#include "dist/thread_ranks.h"

namespace sepia::dist {
namespace {

using ::testing::HasSubstr;

// Every rank's exception of `body`, how many ranks then expect the end, and what was logged.
struct Failures {
  std::vector<std::string> messages;
  std::vector<ExitCode> codes;
  int ending = 0;
  std::string log;
};
Failures FailuresOf(int ranks, const std::function<void(Communicator&)>& body) {
  Failures failures;
  failures.messages.resize(static_cast<size_t>(ranks));
  failures.codes.resize(static_cast<size_t>(ranks));
  std::atomic<int> ending = 0;
  SetLogSink([&](LogLevel, std::string_view message) { failures.log += message; });
  RunThreadRanks(ranks, [&](std::unique_ptr<Communicator> world) {
    const auto rank = static_cast<size_t>(world->rank());
    try {
      body(*world);
    } catch (const AgreedError& error) {
      failures.messages[rank] = error.what();
      failures.codes[rank] = error.code();
    }
    ending += world->recorder()->ending();
  });
  SetLogSink(nullptr);
  failures.ending = ending;
  for (const std::string& message : failures.messages) EXPECT_EQ(message, failures.messages[0]);
  for (const ExitCode code : failures.codes) EXPECT_EQ(code, failures.codes[0]);
  return failures;
}

TEST(Agree, LetsSuccessPass) {
  const Failures failures = FailuresOf(3, [](Communicator& world) {
    EXPECT_EQ(Agreed(world, [&] { return world.rank(); }), world.rank());
  });
  EXPECT_EQ(failures.messages[0], "");
  EXPECT_EQ(failures.ending, 0);
}

TEST(Agree, NamesTheRankThatFailed) {
  const Failures failures = FailuresOf(3, [](Communicator& world) {
    Agree(world, [&] {
      if (world.rank() == 1) throw UserError(ExitCode::kBadData, "no such file");
    });
  });
  EXPECT_EQ(failures.messages[0], "rank 1: no such file");
  EXPECT_EQ(failures.codes[0], ExitCode::kBadData);
  EXPECT_EQ(failures.log, "rank 1: no such file");  // once
  EXPECT_EQ(failures.ending, 3);                    // for the watchdogs
}

// A failure that the run can go on from.
TEST(FirstFailure, IsToldToAllAndEndsNothing) {
  const Failures failures = FailuresOf(3, [](Communicator& world) {
    const std::optional<Failure> failure = FirstFailure(world, [&] {
      if (world.rank() > 0) throw UserError(ExitCode::kBadData, "no such file");
    });
    ASSERT_TRUE(failure.has_value());
    EXPECT_EQ(failure->message, "rank 1: no such file");
    EXPECT_EQ(failure->code, ExitCode::kBadData);
    EXPECT_FALSE(FirstFailure(world, [] {}).has_value());
  });
  EXPECT_EQ(failures.log, "");
  EXPECT_EQ(failures.ending, 0);
}

TEST(Agree, AFailureOfAllIsReportedOnce) {
  EXPECT_EQ(FailuresOf(
                3, [](Communicator& world) { Agree(world, [] { throw UserError("bad config"); }); })
                .log,
            "bad config");
}

TEST(Agree, PassesTheExceptionInAWorldOfOne) {
  const auto world = MakeSelfCommunicator();
  EXPECT_THROW(Agree(*world, [] { throw UserError("bad config"); }), UserError);
}

TEST(RequireSame, NamesFactRankAndNode) {
  const Failures failures = FailuresOf(4, [](Communicator& world) {
    RequireSame(world, {"the config", "same", "use one file"});
    RequireSame(world, {"the build", world.rank() == 2 ? "1.1" : "1.0", "use one binary"});
  });
  EXPECT_THAT(failures.messages[0],
              HasSubstr("the build differs between ranks: rank 2 (on " + NodeName() +
                        ") has 1.1, rank 0 (on " + NodeName() + ") has 1.0; use one binary"));
  EXPECT_EQ(failures.codes[0], ExitCode::kUsage);
}

}  // namespace
}  // namespace sepia::dist
