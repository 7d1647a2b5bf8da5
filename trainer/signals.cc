#include "trainer/signals.h"

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

#include "base/check.h"
#include "base/error.h"

namespace sepia::trainer {
namespace {

constexpr int kSignals[] = {SIGUSR1, SIGTERM, SIGINT};

std::atomic<int> requested{0};
std::atomic<bool> installed{false};
static_assert(std::atomic<int>::is_always_lock_free);

// Only async-signal-safe calls here.
void Handle(int signal) {
  int expected = 0;
  const bool first = requested.compare_exchange_strong(expected, signal);
  const std::string_view message =
      first ? "\nfinishing what is under way, then saving (send the signal again to stop now)\n"
            : "\nstopping now, without saving; earlier checkpoints are untouched\n";
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, message.data(), message.size());
  if (!first) _exit(static_cast<int>(ExitCode::kStopped));
}

}  // namespace

StopSignals::StopSignals() {
  CHECK(!installed.exchange(true), "two runs in one process");
  requested = 0;
  struct sigaction action {};
  action.sa_handler = Handle;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    CHECK(sigaction(kSignals[i], &action, &previous_[i]) == 0);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &previous_[i], nullptr);
  installed = false;
}

int StopSignals::Requested() const { return requested; }

bool AnyRankWasAsked(const StopSignals& signals, dist::Communicator& world) {
  kernels::Context ctx;
  int32_t asked = signals.Requested() != 0;
  world.AllReduce(ctx, TensorView(&asked, DType::kInt32, {1}), dist::ReduceOp::kMax, "stop").Wait();
  return asked != 0;
}

}  // namespace sepia::trainer
