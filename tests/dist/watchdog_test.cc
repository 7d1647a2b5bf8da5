// What a rank does when another one's process is gone.
#include "dist/watchdog.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "dist/launcher.h"

namespace sepia::dist {
namespace {

using ::testing::ExitedWithCode;

// Rank 0 of two, as far as a watchdog looks: rank 1 is another process of this node.
class TwoRanks final : public Communicator {
 public:
  explicit TwoRanks(pid_t other) : other_(fmt::format("{} {}", other, NodeName())) {}

  int rank() const override { return 0; }
  int size() const override { return 2; }
  const std::string& name() const override { return name_; }

  // Of GatherTexts: lengths, then texts.
  Pending AllGather(kernels::Context&, ConstTensorView input, TensorView output,
                    std::string_view) override {
    const auto size = static_cast<size_t>(input.num_bytes());
    auto* const out = static_cast<std::byte*>(output.raw());
    std::memcpy(out, input.raw(), size);
    if (input.dtype() == DType::kInt64) {
      const auto length = static_cast<int64_t>(other_.size());
      std::memcpy(out + size, &length, sizeof(length));
    } else {
      std::memcpy(out + size, other_.data(), std::min(size, other_.size()));
    }
    return {};
  }
  Pending AllReduce(kernels::Context&, TensorView, ReduceOp, std::string_view) override {
    return {};
  }
  Pending ReduceScatter(kernels::Context&, ConstTensorView, TensorView, ReduceOp,
                        std::string_view) override {
    return {};
  }
  Pending Broadcast(kernels::Context&, TensorView, int, std::string_view) override { return {}; }
  void Barrier(std::string_view) override {}
  std::unique_ptr<Communicator> Split(int, int, const std::string&) override { return nullptr; }
  void Abort(int exit_code) override { std::_Exit(exit_code); }
  Traffic traffic() const override { return {}; }
  std::shared_ptr<FlightRecorder> recorder() override { return recorder_; }

 private:
  const std::string name_ = "world";
  const std::string other_;
  const std::shared_ptr<FlightRecorder> recorder_ = std::make_shared<FlightRecorder>();
};

// A process that has ended, and whose number nobody else gets meanwhile.
class EndedProcess {
 public:
  EndedProcess() : process_(fork()) {
    if (process_ == 0) _exit(0);
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOWAIT);
  }
  ~EndedProcess() { waitpid(process_, nullptr, 0); }
  EndedProcess(const EndedProcess&) = delete;
  EndedProcess& operator=(const EndedProcess&) = delete;
  pid_t number() const { return process_; }

 private:
  pid_t process_;
};

// A rank that waits for `other`: returns after `seconds`, unless its watchdog ends the process.
void WaitFor(pid_t other, double seconds, bool expects_the_end) {
  TwoRanks world(other);
  Watchdog watchdog(world, {.limit_seconds = 0, .directory = ""});
  if (expects_the_end) watchdog.ExpectTheEnd();
  for (const Timer timer; timer.Seconds() < seconds;) usleep(10000);
}

TEST(WatchdogTest, EndsARankWhosePeerIsGone) {
  const EndedProcess peer;
  EXPECT_EXIT(WaitFor(peer.number(), /*seconds=*/60, /*expects_the_end=*/false), ExitedWithCode(71),
              "rank 1 .*has ended without a word");
}

TEST(WatchdogTest, LetsPeersGoWhenTheEndIsExpected) {
  const EndedProcess peer;
  EXPECT_EXIT(
      {
        // Three times what it takes to miss a peer.
        WaitFor(peer.number(), /*seconds=*/1.5, /*expects_the_end=*/true);
        std::_Exit(0);
      },
      ExitedWithCode(0), "");
}

}  // namespace
}  // namespace sepia::dist
