// Every pair once, and links that are slow for their kind.
#include "dist/link_survey.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/thread_ranks.h"

namespace sepia::dist {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(LinkSurvey, MeasuresEveryPairOnce) {
  for (const int size : {2, 5}) {
    RunThreadRanks(size, [&](std::unique_ptr<Communicator> world) {
      const std::vector<std::string> nodes(static_cast<size_t>(size), "a");
      std::set<std::pair<int, int>> pairs;
      for (const Link& link : SurveyLinks(*world, RanksToSurvey(nodes), nodes)) {
        EXPECT_LT(link.a, link.b);
        EXPECT_TRUE(pairs.insert({link.a, link.b}).second);
        EXPECT_GT(link.latency_s, 0);
        EXPECT_GT(link.bytes_per_s, 0);
        EXPECT_TRUE(link.same_node);
      }
      EXPECT_EQ(pairs.size(), static_cast<size_t>(size * (size - 1) / 2));
    });
  }
}

TEST(LinkSurvey, LeavesOutRanksThatAreNotMembers) {
  RunThreadRanks(4, [](std::unique_ptr<Communicator> world) {
    const std::vector<Link> links = SurveyLinks(*world, {1, 3}, {"a", "a", "b", "b"});
    ASSERT_EQ(links.size(), 1u);
    EXPECT_EQ(links[0].a, 1);
    EXPECT_EQ(links[0].b, 3);
    EXPECT_FALSE(links[0].same_node);
  });
}

TEST(LinkSurvey, TakesOneRankOfEachNodeOfALargeWorld) {
  EXPECT_THAT(RanksToSurvey({"a", "a", "b"}), ElementsAre(0, 1, 2));
  EXPECT_THAT(RanksToSurvey(std::vector<std::string>(24, "a")), ElementsAre(0, 1));
  std::vector<std::string> nodes;
  for (int r = 0; r < 24; ++r) nodes.emplace_back(r < 8 ? "a" : r < 16 ? "b" : "c");
  EXPECT_THAT(RanksToSurvey(nodes), ElementsAre(0, 8, 16));
}

TEST(LinkSurvey, FindsLinksThatAreSlowForTheirKind) {
  const auto link = [](int a, int b, bool same_node, double rate) {
    return Link{.a = a, .b = b, .same_node = same_node, .latency_s = 1, .bytes_per_s = rate};
  };
  std::vector<Link> links = {link(0, 1, true, 10), link(2, 3, true, 9),  link(4, 5, true, 8),
                             link(0, 2, false, 1), link(0, 4, false, 1), link(2, 4, false, 0.9)};
  EXPECT_THAT(SlowLinks(links), IsEmpty());  // nodes are apart, which is no fault of a link
  EXPECT_EQ(MedianLink(links, true).bytes_per_s, 9);
  links[2].bytes_per_s = 4;
  links[5].bytes_per_s = 0.4;
  const std::vector<Link> slow = SlowLinks(links);
  ASSERT_EQ(slow.size(), 2u);
  EXPECT_EQ(slow[0].a, 4);
  EXPECT_EQ(slow[1].b, 4);
}

}  // namespace
}  // namespace sepia::dist
