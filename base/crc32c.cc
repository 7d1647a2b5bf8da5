#include "base/crc32c.h"

#include <nmmintrin.h>

#include <cstring>

namespace sepia {

// The crc32 instruction is part of x86-64-v2; this project's floor is x86-64-v3.
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t previous) {
  uint64_t crc = ~previous;
  const std::byte* data = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; data += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, data, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  auto crc32 = static_cast<uint32_t>(crc);
  for (; left > 0; ++data, --left) crc32 = _mm_crc32_u8(crc32, static_cast<uint8_t>(*data));
  return ~crc32;
}

}  // namespace sepia
