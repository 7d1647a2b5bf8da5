#include "data/neox_random.h"

#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::data {
namespace {

using ::testing::ElementsAre;

std::vector<int64_t> Shuffled(NeoxRandom& random, int64_t count) {
  std::vector<int64_t> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  random.Shuffle(std::span(values));
  return values;
}

// Values of numpy.random.RandomState(1234), computed with numpy 1.24 (see tests/golden/data).
TEST(NeoxRandom, KnownValues) {
  NeoxRandom random(1234);
  EXPECT_EQ(random.Next32(), 822569775u);
  EXPECT_EQ(random.Next32(), 2137449171u);
  EXPECT_EQ(random.Next32(), 2671936806u);
  NeoxRandom again(1234);
  EXPECT_THAT(Shuffled(again, 10), ElementsAre(7, 2, 9, 1, 0, 8, 4, 5, 6, 3));
}

TEST(NeoxRandom, Numpy) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/data");
  const nlohmann::json seeds = sepia::testing::ReadJson(fixtures + "/rng.json");
  for (const auto& [name, reference] : seeds.items()) {
    const auto seed = static_cast<uint32_t>(std::stoul(name));
    SCOPED_TRACE("seed " + name);
    NeoxRandom raw(seed);
    for (const uint32_t value : reference["first_uint32"]) EXPECT_EQ(raw.Next32(), value);
    for (const auto& [key, value] : reference.items()) {
      if (key.rfind("shuffle_", 0) != 0) continue;
      SCOPED_TRACE(key);
      NeoxRandom random(seed);
      if (key == "shuffle_7_then_11") {
        EXPECT_EQ(Shuffled(random, 7), value[0].get<std::vector<int64_t>>());
        EXPECT_EQ(Shuffled(random, 11), value[1].get<std::vector<int64_t>>());
        continue;
      }
      const std::vector<int64_t> ours = Shuffled(random, std::stoll(key.substr(8)));
      if (key.find("sha256") != std::string::npos) {
        EXPECT_EQ(sepia::testing::DigestAs<int32_t>(ours), value);
      } else {
        const auto head = value.get<std::vector<int64_t>>();
        EXPECT_EQ(std::vector(ours.begin(), ours.begin() + static_cast<int64_t>(head.size())),
                  head);
      }
    }
  }
}

// The wide path draws the high word first (numpy's legacy random_interval).
TEST(NeoxRandom, WideInterval) {
  NeoxRandom words(1234);
  const uint64_t high = words.Next32();
  const uint64_t low = words.Next32();
  NeoxRandom random(1234);
  EXPECT_EQ(random.Interval(~uint64_t{0}), high << 32 | low);
}

}  // namespace
}  // namespace sepia::data
