// The loops behind shares of peak do the products that they count.
#include "kernels/cpu/register_peak.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.h"
#include "kernels/cpu/bf16_loops.h"
#include "kernels/cpu/isa/fma_loop.h"

namespace sepia::kernels::cpu {
namespace {

bool Runs(Isa isa) {
  const std::vector<Isa> isas = RunnableIsas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

std::vector<BFloat16> RandomPairs() {
  const PhiloxStream random(7, "pairs");
  std::vector<BFloat16> values;
  for (uint64_t i = 0; i < 2048; ++i) values.emplace_back(random.Uniform(i) + 0.5f);
  return values;
}

double Value(const std::vector<BFloat16>& values, size_t at) {
  return static_cast<double>(static_cast<float>(values[at]));
}

// All terms are positive: fp32 sums of n of them are within n 2^-24, and the unit may round each
// pair of products once more.
double Tolerance(double sum, int num_terms) { return 2 * num_terms * 0x1p-24 * sum; }

TEST(RegisterPeak, TileLoopMultipliesTiles) {
  if (!Runs(Isa::kAmx)) GTEST_SKIP() << "no tiles here";
  const std::vector<BFloat16> random = RandomPairs();
  // Element [0, 0] of the second row tile times the second column tile, whose rows hold pairs.
  double product = 0;
  for (size_t k = 0; k < 32; ++k) {
    product += Value(random, 512 + k) * Value(random, 1536 + k / 2 * 32 + k % 2);
  }
  for (const int64_t rounds : {1, 3}) {
    float sink = 0;
    EXPECT_EQ(TileLoop(rounds, random.data(), &sink), rounds * 4 * 16384);
    const double expected = static_cast<double>(rounds) * product;
    EXPECT_NEAR(sink, expected, Tolerance(expected, 32 * static_cast<int>(rounds)));
  }
}

TEST(RegisterPeak, Dpbf16LoopMultipliesPairs) {
  if (!Runs(Isa::kAvx512Bf16)) GTEST_SKIP() << "no vdpbf16ps here";
  const std::vector<BFloat16> random = RandomPairs();
  double product = 0;  // lane 0 of 4 x 3 products
  for (size_t r = 0; r < 4; ++r) {
    for (size_t c = 4; c < 7; ++c) {
      for (size_t i = 0; i < 2; ++i)
        product += Value(random, r * 32 + i) * Value(random, c * 32 + i);
    }
  }
  for (const int64_t rounds : {1, 3}) {
    float sink = 0;
    EXPECT_EQ(Dpbf16Loop(rounds, random.data(), &sink), rounds * 12 * 64);
    const double expected = static_cast<double>(rounds) * product;
    EXPECT_NEAR(sink, expected, Tolerance(expected, 24 * static_cast<int>(rounds)));
  }
}

// Converged or overflowed sums would cost less power than products do.
TEST(RegisterPeak, FmaLoopKeepsMoving) {
  std::vector<float> random;
  const PhiloxStream stream(7, "operands");
  for (uint64_t i = 0; i < 48; ++i) random.push_back(0.5f + 0.5f * stream.Uniform(i));
  for (const int64_t rounds : {0, 1, 10'000}) {
    float now = 0, next = 0;
    EXPECT_EQ(SEPIA_BY_ISA(FmaLoop)(rounds, random.data(), &now) % 48, 0);
    SEPIA_BY_ISA(FmaLoop)(rounds + 1, random.data(), &next);
    EXPECT_LT(std::abs(now), 1e4f);
    EXPECT_GT(std::abs(now - next), 1.0f) << "after " << rounds << " rounds";
  }
}

TEST(RegisterPeak, EveryRunnableIsa) {
  for (const Isa isa : RunnableIsas()) {
    for (const int num_threads : {1, 2}) {
      EXPECT_GT(RegisterPeakGflops(isa, num_threads), 0.1) << IsaName(isa);
    }
  }
}

}  // namespace
}  // namespace sepia::kernels::cpu
