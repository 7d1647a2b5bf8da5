// A failure of one rank reaches the test, and the other ranks do not wait for it.
#include "dist/thread_ranks.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace sepia::dist {
namespace {

TEST(RunThreadRanks, RethrowsWhatARankThrewAndFreesTheOthers) {
  try {
    RunThreadRanks(4, [](std::unique_ptr<Communicator> world) {
      world->Barrier("all");
      if (world->rank() == 2) throw UserError("rank 2 has had enough");
      while (true) world->Barrier("without rank 2");
    });
    FAIL() << "nothing was thrown";
  } catch (const UserError& error) {
    EXPECT_STREQ(error.what(), "rank 2 has had enough");
  }
}

TEST(RunThreadRanks, AGroupThatDoesNotHoldTheFailedRankIsFreedToo) {
  EXPECT_THROW(RunThreadRanks(4,
                              [](std::unique_ptr<Communicator> world) {
                                const auto pair = world->Split(world->rank() / 2, 0, "pair");
                                if (world->rank() == 3) throw UserError("gone");
                                while (true) pair->Barrier("pair");
                              }),
               UserError);
}

}  // namespace
}  // namespace sepia::dist
