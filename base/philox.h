// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
// 1, 2, 3", SC'11). Every value is a pure function of (seed, stream, index), so tensor or data
// parallelism, thread counts and resumption never change a draw, and there is no state to save.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace sepia {

// One block: four 32-bit words from a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 4>& counter,
                                   const std::array<uint32_t, 2>& key);

// A named, random-access sequence of draws. Thread-safe (immutable).
class PhiloxStream {
 public:
  // `stream` separates uses of one seed: a parameter's name, "sampling", ...
  PhiloxStream(uint64_t seed, std::string_view stream);

  // Uniform 32 bits number `index`.
  uint32_t Bits(uint64_t index) const;
  // Uniform in [0, 1) with 24 random bits.
  float Uniform(uint64_t index) const;
  // Standard normal by Box-Muller in double; values 2i and 2i+1 share one block.
  float Normal(uint64_t index) const;

 private:
  std::array<uint32_t, 2> key_;
  uint64_t stream_hash_;
};

}  // namespace sepia
