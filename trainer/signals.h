// SIGUSR1, SIGTERM and SIGINT ask a run to finish the step, save and exit with 75. A second one
// ends the process at once, also with 75: checkpoints that are complete stay as they are.
#pragma once

#include <csignal>

namespace sepia::trainer {

// Installs the handlers for its life time and then restores the previous ones. One at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that asked, or 0.
  int Requested() const;

 private:
  struct sigaction previous_[3];
};

}  // namespace sepia::trainer
