#include "kernels/cuda/emulation/access_log.h"

#include <algorithm>
#include <array>
#include <set>

namespace sepia::kernels::cuda::emulation {

void AccessLog::Add(int thread, uint64_t site, bool is_shared, uintptr_t address,
                    uint32_t num_bytes) {
  const uint32_t use = uses_[(site << 10) + static_cast<uint64_t>(thread)]++;
  const uint64_t warp = static_cast<uint64_t>(thread) / 32;
  Instruction& instruction = instructions_[(((site << 5) + warp) << 24) + use];
  instruction.is_shared = is_shared;
  instruction.num_bytes = num_bytes;
  instruction.of_lanes.emplace_back(thread % 32, address);
}

void AccessLog::Finish(Counters& counters) {
  for (auto& [key, instruction] : instructions_) {
    auto& [is_shared, num_bytes, of_lanes] = instruction;
    std::sort(of_lanes.begin(), of_lanes.end());
    std::vector<uintptr_t> addresses;
    for (const auto& [lane, address] : of_lanes) addresses.push_back(address);
    const auto total = static_cast<int64_t>(addresses.size() * num_bytes);
    if (is_shared) {
      counters.shared_wavefronts += SharedWavefronts(addresses, num_bytes);
      counters.shared_wavefronts_ideal += (total + 127) / 128;
      continue;
    }
    std::set<uintptr_t> sectors;
    for (const uintptr_t address : addresses) {
      sectors.insert(address / 32);
      sectors.insert((address + num_bytes - 1) / 32);
    }
    counters.global_sectors += static_cast<int64_t>(sectors.size());
    counters.global_sectors_ideal += (total + 31) / 32;
  }
  uses_.clear();
  instructions_.clear();
}

int64_t SharedWavefronts(const std::vector<uintptr_t>& addresses, uint32_t num_bytes) {
  const size_t together = num_bytes <= 4 ? 32 : 128 / num_bytes;
  int64_t wavefronts = 0;
  for (size_t begin = 0; begin < addresses.size(); begin += together) {
    std::array<std::set<uintptr_t>, 32> words_of_bank;
    for (size_t i = begin; i < std::min(begin + together, addresses.size()); ++i) {
      for (uint32_t byte = 0; byte < std::max(num_bytes, 4u); byte += 4) {
        const uintptr_t word = (addresses[i] + byte) / 4;
        words_of_bank[word % 32].insert(word);
      }
    }
    size_t most = 0;
    for (const auto& words : words_of_bank) most = std::max(most, words.size());
    wavefronts += static_cast<int64_t>(most);
  }
  return wavefronts;
}

}  // namespace sepia::kernels::cuda::emulation
