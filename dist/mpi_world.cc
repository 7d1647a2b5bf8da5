// The only file that knows MPI. Uses MPI 3.1 point-to-point messages and communicator splits.
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "dist/communicator.h"
#include "dist/group_communicator.h"
#include "dist/launcher.h"
#include "dist/transport.h"

namespace sepia::dist {
namespace {

// MPI counts are ints.
constexpr size_t kMaxMessage = size_t{1} << 30;
constexpr int kTag = 1;

// Longer than the watchdog waits, unless it was told to wait longer or not to watch.
constexpr auto kLongestStay = std::chrono::minutes(11);

// MPI from initialisation to the end of the last communicator. Communicators made from the world
// inherit its error handler.
class MpiRuntime {
 public:
  MpiRuntime() {
    // A communication thread waits beside threads that compute: where Open MPI would spin, it gives
    // the processor away.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);
    // Every group has a thread that calls, on a communicator of its own.
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
    if (provided < MPI_THREAD_MULTIPLE) {
      throw UserError(ExitCode::kEnvironment,
                      "this MPI library allows no calls from several threads at a time "
                      "(MPI_THREAD_MULTIPLE); use Open MPI as Debian builds it");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
  // After a failure other ranks may never come to MPI_Finalize: then this process just ends.
  ~MpiRuntime() {
    if (std::uncaught_exceptions() == 0) MPI_Finalize();
  }
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;
};

// Communicators live as long as the runtime: freeing one is a collective call, which a rank that
// fails cannot make.
class MpiTransport final : public Transport {
 public:
  MpiTransport(std::shared_ptr<MpiRuntime> runtime, MPI_Comm comm)
      : runtime_(std::move(runtime)), comm_(comm) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void Exchange(std::span<const std::span<const std::byte>> outgoing,
                std::span<const std::span<std::byte>> incoming) override {
    requests_.clear();
    expected_.clear();
    for (int step = 1; step < size_; ++step) {
      const int from = (rank_ + size_ - step) % size_;
      auto rest = incoming[static_cast<size_t>(from)];
      while (!rest.empty()) {
        const auto piece = rest.first(std::min(rest.size(), kMaxMessage));
        MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, from, kTag, comm_,
                  &requests_.emplace_back());
        expected_.push_back(static_cast<int>(piece.size()));
        rest = rest.subspan(piece.size());
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int to = (rank_ + step) % size_;
      auto rest = outgoing[static_cast<size_t>(to)];
      while (!rest.empty()) {
        const auto piece = rest.first(std::min(rest.size(), kMaxMessage));
        MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, to, kTag, comm_,
                  &requests_.emplace_back());
        rest = rest.subspan(piece.size());
      }
    }
    statuses_.resize(requests_.size());
    const int result = WaitForAll();
    if (result != MPI_SUCCESS || !SizesAreAsExpected()) StayForTheWatchdog();
  }

  std::unique_ptr<Transport> Split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    MPI_Comm_split(comm_, color, key, &part);
    return std::make_unique<MpiTransport>(runtime_, part);
  }

  // A process that ends before MPI_Finalize makes mpirun and srun end the others; its code is the
  // job's. MPI_Abort could not be called: a communication thread may be inside MPI.
  void Abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  // MPI_Waitall would keep a processor busy that others compute on. Short waits are spent asking, for
  // the latency of small sums; longer ones, behind a slow link, asleep.
  int WaitForAll() {
    constexpr auto kAwake = std::chrono::microseconds(200);
    constexpr auto kAsleep = std::chrono::microseconds(50);
    const auto start = std::chrono::steady_clock::now();
    while (true) {
      int done = 0;
      const int result = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done,
                                     statuses_.data());
      if (result != MPI_SUCCESS || done != 0) return result;
      if (std::chrono::steady_clock::now() - start < kAwake) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(kAsleep);
      }
    }
  }

  bool SizesAreAsExpected() const {
    for (size_t i = 0; i < expected_.size(); ++i) {  // receives come first
      int size = 0;
      MPI_Get_count(&statuses_[i], MPI_BYTE, &size);
      if (size != expected_[i]) return false;
    }
    return true;
  }

  // A message of another size means that ranks called different collectives: there is nothing right
  // to go on with. The watchdog compares the ranks' calls and names the one that differs, so this
  // call stays under way until it ends the job.
  [[noreturn]] void StayForTheWatchdog() {
    LogWarn(
        "a message of another size than this collective's came in: ranks have called different "
        "collectives, or MPI has failed");
    std::this_thread::sleep_for(kLongestStay);
    std::_Exit(static_cast<int>(ExitCode::kHang));
  }

  std::shared_ptr<MpiRuntime> runtime_;
  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 0;
  std::vector<MPI_Request> requests_;  // receives, then sends
  std::vector<MPI_Status> statuses_;
  std::vector<int> expected_;  // bytes of each receive
};

}  // namespace

std::unique_ptr<Communicator> MakeWorldCommunicator() {
  RefuseUnconnectedTasks();
  if (!StartedByLauncher()) return MakeSelfCommunicator();
  const auto runtime = std::make_shared<MpiRuntime>();
  return MakeGroupCommunicator(std::make_shared<MpiTransport>(runtime, MPI_COMM_WORLD),
                               std::make_shared<FlightRecorder>(), "world");
}

std::string MpiLibraryVersion() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);  // allowed before MPI_Init
  return text;
}

}  // namespace sepia::dist
