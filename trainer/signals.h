// SIGUSR1, SIGTERM and SIGINT ask a run to finish the step, save and exit with 75. A second one
// ends the process at once, also with 75: checkpoints that are complete stay as they are. Made
// before anything else of a run, so that a signal while it starts up stops it in the same way.
#pragma once

#include <csignal>

#include "dist/communicator.h"

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

// Whether any rank was asked to stop: the same answer on all of them. Collective.
bool AnyRankWasAsked(const StopSignals& signals, dist::Communicator& world);

}  // namespace sepia::trainer
