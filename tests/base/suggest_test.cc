#include "base/suggest.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace sepia {
namespace {

TEST(DidYouMean, SuggestsTheNearestOrNothing) {
  const std::vector<std::string> known = {"window", "num_initial", "stride"};
  EXPECT_EQ(DidYouMean("windwo", known), "; did you mean \"window\"?");
  EXPECT_EQ(DidYouMean("numinitial", known), "; did you mean \"num_initial\"?");
  EXPECT_EQ(DidYouMean("strid", known), "; did you mean \"stride\"?");
  EXPECT_EQ(DidYouMean("learning_rate", known), "");
  EXPECT_EQ(DidYouMean("", known), "");
  EXPECT_EQ(DidYouMean(std::string(1 << 20, 'w'), known), "");
  EXPECT_EQ(DidYouMean("window", {}), "");
}

}  // namespace
}  // namespace sepia
