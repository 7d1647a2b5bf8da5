// CRC-32C (Castagnoli, reflected 0x82F63B78, init and xorout ~0; RFC 3720 appendix B.4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sepia {

// CRC of `bytes`; pass the CRC of what came before to continue it.
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t previous = 0);

}  // namespace sepia
