// One NCCL communicator and its stream: creation without blocking, collectives in the order of
// their calls, their times, the end.
#pragma once

#include <nccl.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "dist/communicator.h"
#include "dist/flight_recorder.h"
#include "dist/nccl_communicator.h"
#include "dist/nccl_watch.h"
#include "kernels/cuda/device.h"

namespace sepia::dist {

// What all groups of a rank share.
struct NcclRank {
  NcclRank(Communicator& host, kernels::cuda::Stream& stream, const NcclOptions& how);

  kernels::cuda::Stream& compute;
  const NcclOptions options;
  const std::shared_ptr<FlightRecorder> recorder;  // or null
  NcclWatch watch;
  // NCCL's kernels wait for their peers on the GPU, and those of two communicators may each hold
  // what the other needs: NVIDIA asks for one order on all ranks. So a group's collective runs
  // behind the last one of any group.
  std::shared_ptr<kernels::cuda::Event> last;
};

// When a collective ran, and when the compute stream had nothing left to do but wait for it.
struct CollectiveTimes {
  kernels::cuda::Event begun, done, asked;
  bool was_asked = false;
};

// Sums the times of collectives once they are over; never waits for the device. Thread-safe.
class CollectiveClock {
 public:
  void Add(std::shared_ptr<CollectiveTimes> times);
  // `compute` has come to where it waits for the collective.
  void Asked(CollectiveTimes& times, kernels::cuda::Stream& compute);
  void AddUp();
  double busy_seconds() const { return busy_seconds_; }
  double waited_seconds() const { return waited_seconds_; }

 private:
  std::mutex mutex_;
  std::deque<std::shared_ptr<CollectiveTimes>> times_;  // not added up yet, oldest first
  std::atomic<double> busy_seconds_ = 0, waited_seconds_ = 0;
};

// Called by the rank's own thread, but for clock().
class NcclGroup {
 public:
  // `host` has the ranks of the group. Collective.
  NcclGroup(Communicator& host, std::shared_ptr<NcclRank> rank);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // Enqueues work() on stream() behind what the compute stream holds now.
  template <typename Work>
  Pending Start(const char* operation, std::string_view label, int64_t bytes, const Work& work) {
    auto times = Begin(operation, label, bytes);
    work();
    return End(std::move(times));
  }

  // Calls between ncclGroupStart and ncclGroupEnd, and waits until NCCL has taken them.
  template <typename Calls>
  void Call(const Calls& calls) {
    ncclGroupStart();
    ncclResult_t result = calls(comm_, static_cast<cudaStream_t>(stream_.handle()));
    const ncclResult_t ended = ncclGroupEnd();
    if (result == ncclSuccess || result == ncclInProgress) result = ended;
    Settle(result);
  }

  kernels::cuda::Stream& stream() { return stream_; }
  CollectiveClock& clock() { return clock_; }

 private:
  std::shared_ptr<CollectiveTimes> Begin(const char* operation, std::string_view label,
                                         int64_t bytes);
  Pending End(std::shared_ptr<CollectiveTimes> times);
  // A call without blocking is done when the communicator says so. The watch ends a hang.
  void Settle(ncclResult_t result);
  NcclWatch& watch() { return rank_->watch; }

  std::shared_ptr<NcclRank> rank_;
  const std::string name_;
  kernels::cuda::Stream stream_;
  ncclComm_t comm_ = nullptr;
  int64_t calls_ = 0;
  CollectiveClock clock_;
};

}  // namespace sepia::dist
