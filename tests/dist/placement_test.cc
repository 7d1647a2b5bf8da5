// Warnings about where ranks run, each from a placement that has one fault.
#include "dist/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sepia::dist {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

RankPlace Place(const std::string& node, int threads, std::vector<int> cpus, int node_cpus = 4) {
  return {.node = node, .threads = threads, .cpus = std::move(cpus), .node_cpus = node_cpus};
}

TEST(Placement, IsFineWhenEveryThreadHasAProcessor) {
  EXPECT_THAT(PlacementWarnings({Place("a", 4, {0, 1, 2, 3})}), IsEmpty());
  EXPECT_THAT(PlacementWarnings({Place("a", 2, {0, 1}), Place("a", 2, {2, 3})}), IsEmpty());
  EXPECT_THAT(PlacementWarnings({Place("a", 2, {0, 1, 2, 3}), Place("a", 2, {0, 1, 2, 3}),
                                 Place("b", 1, {0}, 1), Place("b", 1, {1}, 2)}),
              IsEmpty());
}

// What Open MPI does to one or two ranks by itself: a core each.
TEST(Placement, NamesRanksThatAreBoundTooTightly) {
  EXPECT_THAT(PlacementWarnings({Place("a", 2, {0}), Place("a", 2, {1})}),
              ElementsAre(AllOf(HasSubstr("ranks 0 and 1 on a: 2 threads a rank on 1 processor"),
                                HasSubstr("--bind-to none"), HasSubstr("--map-by slot:PE=2")),
                          AllOf(HasSubstr("2 ranks compute with 4 threads on 2 processors"),
                                HasSubstr("OMP_NUM_THREADS=1"))));
}

TEST(Placement, NamesNodesWithMoreThreadsThanProcessors) {
  const RankPlace place = Place("b", 1, {0, 1}, 2);
  EXPECT_THAT(PlacementWarnings({place, place, place}),
              ElementsAre(AllOf(HasSubstr("b: 3 ranks compute with 3 threads on 2 processors"),
                                HasSubstr("start at most 2 ranks there"))));
}

TEST(Placement, NamesRanksThatShareProcessorsBesideFreeOnes) {
  EXPECT_THAT(PlacementWarnings({Place("a", 1, {0}), Place("a", 1, {0}), Place("a", 1, {3})}),
              ElementsAre(HasSubstr("3 ranks compute with 3 threads on 2 processors")));
  EXPECT_THAT(PlacementWarnings({Place("a", 1, {0}), Place("a", 1, {0}), Place("a", 1, {2, 3})}),
              ElementsAre(HasSubstr("ranks 0 and 1 on a are bound to the same 1 processor")));
}

TEST(Placement, NamesNodesWithDifferentNumbersOfRanks) {
  const std::vector<RankPlace> places = {Place("a", 1, {0, 1}), Place("a", 1, {0, 1}),
                                         Place("b", 1, {0, 1})};
  EXPECT_EQ(DescribeNodes(places), "2 ranks on a, 1 on b");
  EXPECT_THAT(PlacementWarnings(places), ElementsAre(HasSubstr("2 ranks on a, 1 on b")));
}

TEST(Placement, TravelsAsText) {
  const RankPlace place = Place("node-7.example", 3, {1, 5, 63}, 64);
  const RankPlace copy = DecodeRankPlace(Encode(place));
  EXPECT_EQ(copy.node, place.node);
  EXPECT_EQ(copy.threads, 3);
  EXPECT_EQ(copy.cpus, place.cpus);
  EXPECT_EQ(copy.node_cpus, 64);
  EXPECT_GE(ThisRanksPlace(1).cpus.size(), 1u);
}

}  // namespace
}  // namespace sepia::dist
