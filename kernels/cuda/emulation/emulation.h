// Running kernels without a GPU: what can be set, what is counted, what is refused.
//
// LaunchErased of the emulated device runs every thread of a block on a host fiber, one block after
// the other, blocks and threads in an order drawn from the seed. It is stricter than hardware: a
// kernel that runs here under every seed has no shared-memory race, no divergent barrier or
// collective, no misaligned or out-of-bounds access among those made through intrinsics.cuh.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

namespace sepia::kernels::cuda::emulation {

// A kernel did what hardware does not define. The message names the kernel, block, thread and line.
class Fault : public std::runtime_error {
 public:
  using runtime_error::runtime_error;
};

// When an asynchronous copy takes place: hardware may do it at any moment between.
enum class AsyncCopies : uint8_t { kAtOnce, kAtWait, kRandom };

struct Options {
  uint64_t seed = 0;  // order of blocks and threads, moments of copies
  AsyncCopies async_copies = AsyncCopies::kAtWait;
  bool count_memory = false;  // sectors and bank conflicts: twice as slow
};
// Of the calling host thread.
Options& MutableOptions();

// Per kernel, since ResetCounters(). Warp-wide instructions unless stated.
struct Counters {
  int64_t blocks = 0;
  int64_t mma = 0;  // m16n8k16
  int64_t load_matrix = 0;
  int64_t load_matrix_wavefronts = 0;  // 4 each without bank conflicts
  int64_t shuffles = 0;
  int64_t exp2 = 0;      // threads
  int64_t barriers = 0;  // blocks
  int64_t async_copies = 0;
  // With count_memory. Ideal: the bytes moved over 32 (sectors) or 128 (wavefronts), rounded up.
  int64_t global_sectors = 0;
  int64_t global_sectors_ideal = 0;
  int64_t shared_wavefronts = 0;
  int64_t shared_wavefronts_ideal = 0;
};
std::map<std::string, Counters>& AllCounters();  // of the calling host thread
void ResetCounters();

}  // namespace sepia::kernels::cuda::emulation
