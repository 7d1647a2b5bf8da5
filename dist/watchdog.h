// A thread of each rank that ends the job when nothing moves any more. Without it a stopped rank, a
// deadlock or a lost network lets the others wait for ever.
//
// No progress (dist/flight_recorder.h) for `limit_seconds`, or another rank's alarm: writes
// `directory`/rank_N.json, and the first rank that is alive says which rank is to blame, in the log
// and in `directory`/verdict.txt; then all leave with 71. A rank of this node whose process is gone
// is named within a second. Times come from the monotonic clock, and time in which this process
// itself was stopped does not count.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dist/communicator.h"
#include "dist/flight_recorder.h"

namespace sepia::dist {

struct WatchdogOptions {
  // Must be more than the longest time without a collective or a change of phase, and more than
  // twice what the launcher needs to notice a lost node. 0: never.
  double limit_seconds = 600;
  // Of the reports, on a file system that all ranks see. Must not exist: its coming to be is the
  // alarm. Empty: the reports are not written.
  std::string directory;
};

class Watchdog {
 public:
  // Collective. In a world of one rank, or of threads, it does nothing.
  explicit Watchdog(Communicator& world, const WatchdogOptions& options = {});
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // From now on with these options; all ranks have the same ones.
  void Protect(const WatchdogOptions& options);
  // From now on ranks may end.
  void ExpectTheEnd();

 private:
  struct Peer {
    std::string node;
    int process = 0;
  };

  void Run();
  int DeadPeer() const;
  [[noreturn]] void LeaveBecauseOf(int dead_peer) const;
  [[noreturn]] void Alarm(const std::string& reason, double stalled,
                          const WatchdogOptions& options) const;
  bool FirstOfNodeBut(int dead_peer) const;

  const std::shared_ptr<FlightRecorder> recorder_;  // null: nothing to watch
  const int rank_;
  std::vector<Peer> peers_;  // by rank
  std::vector<std::string> nodes_;

  mutable std::mutex mutex_;
  std::condition_variable closing_;
  WatchdogOptions options_;
  bool closed_ = false;
  std::thread thread_;  // last
};

}  // namespace sepia::dist
