// Groups the memory accesses of single threads into the warp instructions that hardware would
// issue: the k-th access of each lane at one source line is one instruction.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/emulation/emulation.h"

namespace sepia::kernels::cuda::emulation {

class AccessLog {
 public:
  // `site` is a source line; shared memory is counted in 128-byte wavefronts, global in sectors.
  void Add(int thread, uint64_t site, bool is_shared, uintptr_t address, uint32_t num_bytes);
  // Adds what the block did to `counters` and forgets it.
  void Finish(Counters& counters);

 private:
  struct Instruction {
    bool is_shared = false;
    uint32_t num_bytes = 0;  // of each lane
    std::vector<std::pair<int, uintptr_t>> of_lanes;
  };

  std::unordered_map<uint64_t, uint32_t> uses_;  // of (thread, site)
  std::unordered_map<uint64_t, Instruction> instructions_;
};

// Wavefronts of one warp access to shared memory: 32 banks of 4 bytes; a wavefront serves one word
// of each bank. 16-byte accesses go by quarter warps, 8-byte ones by halves.
int64_t SharedWavefronts(const std::vector<uintptr_t>& addresses, uint32_t num_bytes);

}  // namespace sepia::kernels::cuda::emulation
