// dtype, Philox, CRC-32C, SHA-256: against exhaustive definitions and published vectors.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/crc32c.h"
#include "base/dtype.h"
#include "base/philox.h"
#include "base/sha256.h"

namespace sepia {
namespace {

// The nearest value of a format, found by looking at every value of it: slow, obviously right.
struct HalfFormat {
  int mantissa_bits;
  int bias;
  int max_exponent_field;

  double Value(int bits) const {
    const int exponent = bits >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const double scale = std::ldexp(1.0, -mantissa_bits);
    if (exponent == 0) return std::ldexp(mantissa * scale, 1 - bias);
    return std::ldexp(1 + mantissa * scale, exponent - bias);
  }
  int InfinityBits() const { return max_exponent_field << mantissa_bits; }
};

constexpr HalfFormat kFp16{10, 15, 31};
constexpr HalfFormat kBf16{7, 127, 255};

// Round to nearest, ties to even, for a finite magnitude between two neighbours of the format.
int NearestBits(const HalfFormat& format, float magnitude) {
  int low = 0;
  int high = format.InfinityBits();
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (format.Value(middle) <= magnitude ? low : high) = middle;
  }
  // Infinity stands for the next power of two when rounding.
  const double below = magnitude - format.Value(low);
  const double above = format.Value(high) - magnitude;
  if (below != above) return below < above ? low : high;
  return low % 2 == 0 ? low : high;
}

template <typename Half>
void ExpectRoundsLike(const HalfFormat& format, float value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  EXPECT_EQ(Half(value).bits, sign | NearestBits(format, std::fabs(value))) << value;
}

TEST(DType, HalvesRoundToNearestEven) {
  // Every fp16 value, its midpoints to the next, and one ulp to either side of those.
  for (int bits = 0; bits < kFp16.InfinityBits(); ++bits) {
    const auto value = static_cast<float>(kFp16.Value(bits));
    const auto middle = static_cast<float>((kFp16.Value(bits) + kFp16.Value(bits + 1)) / 2);
    for (const float probe : {value, middle, std::nextafterf(middle, 0), std::nextafterf(middle, 1e9f)}) {
      ExpectRoundsLike<Float16>(kFp16, probe);
      ExpectRoundsLike<Float16>(kFp16, -probe);
    }
    EXPECT_EQ(static_cast<float>(Float16(value)), value);
  }
  for (int bits = 0; bits < kBf16.InfinityBits(); ++bits) {
    const auto value = static_cast<float>(kBf16.Value(bits));
    const auto next = kBf16.Value(bits + 1);
    const auto middle = static_cast<float>((kBf16.Value(bits) + next) / 2);
    if (!std::isfinite(middle)) continue;
    for (const float probe : {value, middle, std::nextafterf(middle, 0)}) {
      ExpectRoundsLike<BFloat16>(kBf16, probe);
    }
    EXPECT_EQ(static_cast<float>(BFloat16(-value)), -value);
  }
}

TEST(DType, HalvesKeepNaNAndInfinity) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Float16(65519.996f).bits, 0x7bff);
  EXPECT_EQ(Float16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(Float16(-infinity).bits, 0xfc00);
  EXPECT_EQ(BFloat16(infinity).bits, 0x7f80);
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
  for (const uint32_t payload : {1u, 0x1fffu, 0x400000u, 0x7fffffu}) {
    const float nan = std::bit_cast<float>(0x7f800000u | payload);
    EXPECT_TRUE(std::isnan(static_cast<float>(Float16(nan)))) << payload;
    EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(nan)))) << payload;
  }
}

TEST(DType, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(ParseDType(DTypeName(dtype)), dtype);
  }
  EXPECT_EQ(ParseDType("f8"), std::nullopt);
  EXPECT_EQ(DTypeSize(DType::kFloat16), 2);
  EXPECT_EQ(DTypeSize(DType::kInt64), 8);
}

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(Philox, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, NormalHasUnitMoments) {
  const PhiloxStream stream(1234, "moments");
  constexpr int kCount = 200000;
  double sum = 0;
  double sum_squares = 0;
  double sum_fourth = 0;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double value = stream.Normal(i);
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    sum_squares += value * value;
    sum_fourth += value * value * value * value;
  }
  // Five standard errors: 1, sqrt(2) and sqrt(96) over sqrt(n).
  const double error = 5 / std::sqrt(kCount);
  EXPECT_NEAR(sum / kCount, 0, error);
  EXPECT_NEAR(sum_squares / kCount, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(sum_fourth / kCount, 3, error * std::sqrt(96.0));
}

TEST(Philox, StreamsAndSeedsDiffer) {
  const PhiloxStream a(1, "a");
  const PhiloxStream b(1, "b");
  const PhiloxStream c(2, "a");
  int equal = 0;
  for (uint64_t i = 0; i < 100; ++i) equal += a.Bits(i) == b.Bits(i) || a.Bits(i) == c.Bits(i);
  EXPECT_EQ(equal, 0);
  for (uint64_t i = 0; i < 1000; ++i) {
    EXPECT_GE(a.Uniform(i), 0.0f);
    EXPECT_LT(a.Uniform(i), 1.0f);
  }
}

uint32_t BitwiseCrc32c(std::span<const std::byte> bytes) {
  uint32_t crc = ~0u;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

TEST(Crc32c, Rfc3720VectorsAndBitwiseDefinition) {
  const std::string digits = "123456789";
  EXPECT_EQ(Crc32c(std::as_bytes(std::span(digits))), 0xe3069283u);
  const std::vector<std::byte> zeros(32);
  EXPECT_EQ(Crc32c(zeros), 0x8a9136aau);
  const std::vector<std::byte> ones(32, std::byte{0xff});
  EXPECT_EQ(Crc32c(ones), 0x62a8ab43u);

  const PhiloxStream random(7, "crc");
  std::vector<std::byte> bytes;
  for (uint64_t size = 0; size < 70; ++size) {
    EXPECT_EQ(Crc32c(bytes), BitwiseCrc32c(bytes)) << size;
    for (size_t cut = 0; cut <= bytes.size(); cut += 7) {
      const auto all = std::span<const std::byte>(bytes);
      EXPECT_EQ(Crc32c(all.subspan(cut), Crc32c(all.first(cut))), Crc32c(all));
    }
    bytes.push_back(static_cast<std::byte>(random.Bits(size)));
  }
}

TEST(Sha256, Fips180Vectors) {
  EXPECT_EQ(Sha256Hex(std::string_view("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex(std::string_view("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  EXPECT_EQ(Sha256Hex(two_blocks),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  Sha256 million;
  const std::string chunk(1000, 'a');
  for (int i = 0; i < 1000; ++i) million.Update(chunk);
  EXPECT_EQ(million.FinishHex(),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // Any cut of the input gives the same digest.
  for (size_t cut = 0; cut <= two_blocks.size(); ++cut) {
    Sha256 sha;
    sha.Update(std::string_view(two_blocks).substr(0, cut));
    sha.Update(std::string_view(two_blocks).substr(cut));
    EXPECT_EQ(sha.FinishHex(), Sha256Hex(two_blocks));
  }
}

}  // namespace
}  // namespace sepia
