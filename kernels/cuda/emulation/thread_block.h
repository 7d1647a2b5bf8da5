// One block of a kernel on host fibers: scheduling, barriers, warp collectives, checked memory.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/access_log.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/fiber.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace sepia::kernels::cuda::emulation {

// A source line of a kernel, taken by default arguments of the intrinsics.
using Site = Where;

struct Lane {
  enum class State : uint8_t { kReady, kAtCollective, kAtBarrier, kDone };

  int thread = 0;
  State state = State::kReady;
  void* stack_pointer = nullptr;
  const char* waits_in = nullptr;  // name of the collective or barrier
  Site waits_at = {};

  // Operands of a collective in, results out.
  uint32_t words[8] = {};
  float floats[4] = {};
  const void* row = nullptr;

  struct AsyncCopy {
    void* to;
    const void* from;  // null: zeros
    uint32_t num_bytes;
    int group;
  };
  std::vector<AsyncCopy> async_copies;  // unfinished, oldest first
  int open_group = 0;
};

class ThreadBlock {
 public:
  // Runs every block of a grid. Throws Fault.
  static void RunGrid(const LaunchShape& shape, const std::function<void()>& kernel);

  // The block and thread that the calling fiber runs.
  static ThreadBlock& Current();
  Lane& lane() { return *lane_; }
  const Dim3& index() const { return index_; }
  const Dim3& grid() const { return shape_->grid; }
  uint8_t* shared() { return shared_.data(); }
  Counters& counters() { return *counters_; }

  // All 32 lanes meet; the last one runs execute(lanes of the warp).
  using Execute = void (*)(Lane* warp);
  void Collective(const char* name, Execute execute, Site site);
  void Barrier(Site site);

  void StartAsyncCopy(void* to, const void* from, bool valid, uint32_t num_bytes, Site site);
  void WaitAsyncCopies(int pending_groups);

  void CheckGlobal(const char* what, const void* address, uint32_t num_bytes, Site site);
  void CheckSharedRead(const void* address, uint32_t num_bytes, Site site, bool log = true);
  void CheckSharedWrite(const void* address, uint32_t num_bytes, Site site);
  [[noreturn]] void Refuse(const std::string& what, Site site) const;

 private:
  struct Warp {
    uint32_t ready = 0;  // one bit a lane
    int arrived = 0;     // lanes at the current collective
    const char* collective = nullptr;
    Site site = {};
  };

  ThreadBlock();
  std::vector<uint64_t> BlockOrder();
  void Run(const Dim3& index);
  static void RunLane();
  void SwitchAway();  // from a lane that cannot go on, to any that can, or to the host
  Lane* NextReady();
  void Wake(size_t warp);
  void CheckSharedRange(const char* what, const void* address, uint32_t num_bytes, Site site);
  void FinishCopy(const Lane::AsyncCopy& copy);
  uint32_t Random();
  std::string DescribeStuck() const;

  const LaunchShape* shape_ = nullptr;
  const std::function<void()>* kernel_ = nullptr;
  Options options_;
  Counters* counters_ = nullptr;
  Dim3 index_;
  FiberStacks stacks_;
  SharedMemory shared_;
  AccessLog access_log_;
  std::vector<Lane> lanes_;
  std::vector<Warp> warps_;
  Lane* lane_ = nullptr;
  size_t num_done_ = 0;
  size_t at_barrier_ = 0;
  Site barrier_site_ = {};
  void* host_stack_ = nullptr;
  std::exception_ptr fault_;
  uint64_t random_state_ = 1;
};

}  // namespace sepia::kernels::cuda::emulation
