#include "dist/gather.h"

#include <gtest/gtest.h>

#include "dist/thread_ranks.h"

namespace sepia::dist {
namespace {

using Texts = std::vector<std::string>;

TEST(GatherTexts, KeepsTextsOfAnyLength) {
  RunThreadRanks(3, [](std::unique_ptr<Communicator> world) {
    const Texts own = {"", "a longer text", std::string(3000, 'x')};
    EXPECT_EQ(GatherTexts(*world, own[static_cast<size_t>(world->rank())], "test"), own);
    EXPECT_EQ(GatherTexts(*world, "", "test"), Texts(3));
    EXPECT_EQ(BroadcastText(*world, own[static_cast<size_t>(world->rank())], 1, "test"), own[1]);
  });
}

TEST(JoinRanks, ReadsAsProse) {
  EXPECT_EQ(JoinRanks({}), "");
  EXPECT_EQ(JoinRanks({2}), "2");
  EXPECT_EQ(JoinRanks({1, 3}), "1 and 3");
  EXPECT_EQ(JoinRanks({0, 1, 3}), "0, 1 and 3");
}

TEST(RanksThatDiffer, AreThoseOutsideTheMajority) {
  EXPECT_EQ(RanksThatDiffer({"a", "a", "a"}), (std::vector<int>{}));
  EXPECT_EQ(RanksThatDiffer({"b", "a", "a"}), (std::vector<int>{0}));
  EXPECT_EQ(RanksThatDiffer({"a", "b", "a", "c"}), (std::vector<int>{1, 3}));
  EXPECT_EQ(RanksThatDiffer({"a", "b"}), (std::vector<int>{1}));
}

}  // namespace
}  // namespace sepia::dist
