#include "kernels/optimizer_state.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"

namespace sepia::kernels {
namespace {

using testing::SameBits;

// A state in bf16 that has been used: second moments are not zero.
struct SplitState {
  explicit SplitState(int64_t size)
      : weight(DType::kBFloat16, {size}),
        master(DType::kInt16, {size}),
        exp_avg(DType::kFloat32, {size}),
        exp_avg_sq(DType::kFloat32, {size}) {}
  OptimizerState state() const { return {weight, master, exp_avg, exp_avg_sq}; }

  OwnedTensor weight, master, exp_avg, exp_avg_sq;
};

// Masters of these bits come back, NaN as NaN; weights are their roundings; second moments stay.
void ExpectRoundTrip(const std::vector<uint32_t>& bits) {
  const auto size = static_cast<int64_t>(bits.size());
  const SplitState split(size);
  const OwnedTensor moments(DType::kFloat32, {size}), masters(DType::kFloat32, {size}),
      read(DType::kFloat32, {size});
  for (int64_t i = 0; i < size; ++i) {
    moments.data<float>()[i] = static_cast<float>(i % 7) * 0.25f;
    masters.data<float>()[i] = std::bit_cast<float>(bits[static_cast<size_t>(i)]);
  }
  WriteValues(split.state(), StateRole::kExpAvgSq, moments);
  WriteValues(split.state(), StateRole::kMaster, masters);
  ReadValues(split.state(), StateRole::kExpAvgSq, read);
  EXPECT_TRUE(SameBits(read, moments));
  // Moments that come after the masters leave them alone.
  WriteValues(split.state(), StateRole::kExpAvgSq, moments);

  ReadValues(split.state(), StateRole::kMaster, read);
  int64_t wrong = 0;
  for (int64_t i = 0; i < size; ++i) {
    const float wanted = masters.data<float>()[i];
    const float got = read.data<float>()[i];
    const bool same = std::isnan(wanted)
                          ? std::isnan(got)
                          : std::bit_cast<uint32_t>(wanted) == std::bit_cast<uint32_t>(got);
    wrong += !same || split.weight.data<BFloat16>()[i].bits != BFloat16::FromFloat(wanted);
  }
  EXPECT_EQ(wrong, 0);
}

// What happens to the lower half depends on the upper half's last bit, on carries out of the upper
// half, and on how the lower one compares with a tie: all upper halves with the lower ones around
// zero, the tie and the end, and some between.
TEST(OptimizerState, Bf16MastersComeBackAtEveryBoundary) {
  std::vector<uint32_t> bits;
  for (uint32_t upper = 0; upper <= 0xffff; ++upper) {
    for (const uint32_t lower : {0x0u, 0x1u, 0x2u, 0x1234u, 0x7ffeu, 0x7fffu, 0x8000u, 0x8001u,
                                 0x8002u, 0xabcdu, 0xfffeu, 0xffffu}) {
      bits.push_back(upper << 16 | lower);
    }
  }
  ExpectRoundTrip(bits);
}

// And all lower halves with upper ones of each kind: zeros, subnormals, the smallest and ordinary
// normal numbers, ends of binades, the largest finite numbers, infinities, NaN; even and odd.
TEST(OptimizerState, Bf16MastersComeBackBetweenBoundaries) {
  std::vector<uint32_t> bits;
  for (const uint32_t magnitude :
       {0x0000u, 0x0001u, 0x0040u, 0x007fu, 0x0080u, 0x0081u, 0x3dccu, 0x3dcdu, 0x3f7eu, 0x3f7fu,
        0x3f80u, 0x7f7eu, 0x7f7fu, 0x7f80u, 0x7f81u, 0x7fc0u, 0x7fc1u, 0x7ffeu, 0x7fffu}) {
    for (const uint32_t upper : {magnitude, magnitude | 0x8000u}) {
      for (uint32_t lower = 0; lower <= 0xffff; ++lower) bits.push_back(upper << 16 | lower);
    }
  }
  ExpectRoundTrip(bits);
}

TEST(OptimizerState, SecondMomentsComeBackOrAreNaN) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> moments = {0.0f,  1e-45f,  0x1p-126f, 1.0f,       3e38f, kInfinity,
                                      -0.0f, -1e-30f, -1.0f,     -kInfinity, NAN,   -NAN};
  const auto size = static_cast<int64_t>(moments.size());
  const SplitState split(size);
  const OwnedTensor masters(DType::kFloat32, {size}), read(DType::kFloat32, {size});
  for (const float master :
       {std::bit_cast<float>(0x3f808000u), std::bit_cast<float>(0x3f818000u)}) {
    std::fill_n(masters.data<float>(), size, master);
    WriteValues(split.state(), StateRole::kMaster, masters);
    WriteValues(split.state(), StateRole::kExpAvgSq,
                ConstTensorView::Of(std::span(moments), {size}));
    ReadValues(split.state(), StateRole::kExpAvgSq, read);
    for (size_t i = 0; i < moments.size(); ++i) {
      const float got = read.data<float>()[i];
      if (moments[i] < 0 || std::isnan(moments[i])) {
        EXPECT_TRUE(std::isnan(got)) << moments[i];
      } else {
        EXPECT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(moments[i] + 0.0f));
      }
    }
    ReadValues(split.state(), StateRole::kMaster, read);
    EXPECT_TRUE(SameBits(read, masters));
  }
}

// A dtype's bytes are those that memory plans count.
TEST(OptimizerState, OnlyFp16KeepsFp32Masters) {
  EXPECT_EQ(MasterDType(DType::kFloat32), std::nullopt);
  EXPECT_EQ(MasterDType(DType::kFloat16), DType::kFloat32);
  EXPECT_EQ(MasterDType(DType::kBFloat16), DType::kInt16);
}

}  // namespace
}  // namespace sepia::kernels
