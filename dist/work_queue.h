// The communication thread of a rank: runs the collectives of all its groups one after the other,
// in the order they were asked for, so that they progress while the rank computes.
//
// All ranks ask in the same order, hence the queues of different ranks never wait for each other in
// a circle.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

#include "dist/flight_recorder.h"

namespace sepia::dist {

class WorkQueue {
 public:
  WorkQueue() : thread_([this] { Run(); }) {}
  // Finishes what is queued.
  ~WorkQueue();

  // Thread-safe. The future carries what `work` throws.
  std::shared_future<void> Push(std::function<void()> work);

  // What the rank has been doing: told by those who push.
  const std::shared_ptr<FlightRecorder>& recorder() const { return recorder_; }

 private:
  void Run();

  const std::shared_ptr<FlightRecorder> recorder_ = std::make_shared<FlightRecorder>();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> tasks_;
  bool closed_ = false;
  std::thread thread_;  // last: starts when the rest exists
};

}  // namespace sepia::dist
