// Looks after the NCCL groups of a rank: asynchronous errors and hangs end in ncclCommAbort.
#pragma once

#include <nccl.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "dist/flight_recorder.h"
#include "kernels/cuda/device.h"

namespace sepia::dist {

class NcclWatch {
 public:
  // Runs until the last group has gone. `device`: where its events are.
  // `recorder`, or null, learns when collectives are over.
  NcclWatch(double timeout_seconds, int device, std::shared_ptr<FlightRecorder> recorder);
  ~NcclWatch();
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  void Add(ncclComm_t comm, const std::string& group);
  // Gives the group back to its owner, who destroys it unless it has been aborted (false).
  bool Remove(ncclComm_t comm);

  // A collective of the group begins, the recorder's `call`, and has been enqueued up to `done`.
  void Begin(ncclComm_t comm, std::string label, int64_t call = 0);
  void Enqueued(ncclComm_t comm, std::shared_ptr<kernels::cuda::Event> done);

  // Throws Error(kHang) once something has failed.
  void ThrowIfFailed();
  // Declares a failure that a call has returned.
  [[noreturn]] void Fail(ncclComm_t comm, const std::string& what);

 private:
  struct Collective {
    std::string label;
    int64_t call = 0;                            // 0: not on record
    double begun = 0;                            // MonotonicSeconds
    std::shared_ptr<kernels::cuda::Event> done;  // null: the call has not returned
  };
  struct Group {
    std::string name;
    std::deque<Collective> running;
  };

  void Run();
  void Look(ncclComm_t comm, Group& group);
  void FailLocked(const Group& group, const std::string& what);

  const double timeout_seconds_;
  const int device_;
  const std::shared_ptr<FlightRecorder> recorder_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<ncclComm_t, Group> groups_;
  std::string failure_;
  bool closed_ = false;
  std::thread thread_;  // last: starts when the rest exists
};

}  // namespace sepia::dist
