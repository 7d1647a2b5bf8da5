#include "base/philox.h"

#include <cmath>
#include <numbers>

namespace sepia {
namespace {

// FNV-1a: stable over builds, unlike std::hash.
uint64_t HashName(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace

std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 4>& counter,
                                   const std::array<uint32_t, 2>& key) {
  std::array<uint32_t, 4> c = counter;
  uint32_t k0 = key[0];
  uint32_t k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

PhiloxStream::PhiloxStream(uint64_t seed, std::string_view stream)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      stream_hash_(HashName(stream)) {}

uint32_t PhiloxStream::Bits(uint64_t index) const {
  const uint64_t block = index / 4;
  const auto words =
      Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                  static_cast<uint32_t>(stream_hash_), static_cast<uint32_t>(stream_hash_ >> 32)},
                 key_);
  return words[index % 4];
}

float PhiloxStream::Uniform(uint64_t index) const {
  return static_cast<float>(Bits(index) >> 8) * 0x1p-24f;
}

float PhiloxStream::Normal(uint64_t index) const {
  const uint64_t pair = index / 2;
  // (0, 1]: the logarithm stays finite.
  const double u1 = (static_cast<double>(Bits(2 * pair)) + 1.0) * 0x1p-32;
  const double u2 = static_cast<double>(Bits(2 * pair + 1)) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u1));
  const double angle = 2.0 * std::numbers::pi * u2;
  return static_cast<float>(radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

}  // namespace sepia
