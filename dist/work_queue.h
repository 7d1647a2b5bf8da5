// The communication thread of one group of a rank: runs its collectives one after the other, in the
// order they were asked for, so that they progress while the rank computes.
//
// All ranks of a group ask in the same order, and a queue waits for queues of its own group only:
// hence they never wait for each other in a circle.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace sepia::dist {

class WorkQueue {
 public:
  WorkQueue() : thread_([this] { Run(); }) {}
  // Finishes what is queued.
  ~WorkQueue();

  // Thread-safe. The future carries what `work` throws.
  std::shared_future<void> Push(std::function<void()> work);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> tasks_;
  bool closed_ = false;
  std::thread thread_;  // last: starts when the rest exists
};

}  // namespace sepia::dist
