// Entropies of streams whose answers are known in closed form.
#include "data/entropy.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

TokenEntropies Of(const std::vector<int32_t>& stream, int64_t max_tokens = 1 << 20) {
  const testing::TempDir dir;
  IndexedDatasetWriter writer(dir.File("x"), DType::kUInt16);
  writer.AddDocument(stream);
  writer.Finish();
  return ComputeTokenEntropies(IndexedDataset(dir.File("x")), max_tokens);
}

// Sums of n terms p log p carry at most n roundings of numbers below 1 nat each.
constexpr double kTolerance = 1000 * std::numeric_limits<double>::epsilon();

TEST(TokenEntropies, PredictableStreams) {
  const TokenEntropies constant = Of({7, 7, 7, 7});
  EXPECT_NEAR(constant.unigram, 0, kTolerance);
  EXPECT_NEAR(constant.bigram, 0, kTolerance);

  // 0 1 2 3 0 1 2 3 ...: uniform, and fully determined by the token before.
  std::vector<int32_t> cycle;
  for (int32_t t = 0; t < 400; ++t) cycle.push_back(t % 4);
  const TokenEntropies entropies = Of(cycle);
  EXPECT_NEAR(entropies.unigram, std::log(4.0), kTolerance);
  EXPECT_NEAR(entropies.bigram, 0, kTolerance);
  EXPECT_EQ(entropies.tokens, 400);
}

// Every pair of {0, 1} equally often (a de Bruijn cycle, closed): the token before tells nothing.
TEST(TokenEntropies, PairsThatTellNothing) {
  std::vector<int32_t> stream;
  for (int i = 0; i < 64; ++i) stream.insert(stream.end(), {0, 0, 1, 1});
  stream.push_back(0);
  EXPECT_NEAR(Of(stream).bigram, std::log(2.0), kTolerance);
}

TEST(TokenEntropies, CountsAtMostWhatItIsAllowed) {
  const TokenEntropies entropies = Of({5, 5, 5, 1, 2, 3}, 3);
  EXPECT_EQ(entropies.tokens, 3);
  EXPECT_NEAR(entropies.unigram, 0, kTolerance);
  EXPECT_EQ(Of({9}).bigram, 0);
}

}  // namespace
}  // namespace sepia::data
