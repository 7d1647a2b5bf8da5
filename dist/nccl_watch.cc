#include "dist/nccl_watch.h"

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/error.h"

namespace sepia::dist {
namespace {

constexpr std::chrono::milliseconds kInterval{20};

}  // namespace

NcclWatch::NcclWatch(double timeout_seconds, int device, std::shared_ptr<FlightRecorder> recorder)
    : timeout_seconds_(timeout_seconds),
      device_(device),
      recorder_(std::move(recorder)),
      thread_([this] { Run(); }) {}

NcclWatch::~NcclWatch() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void NcclWatch::Add(ncclComm_t comm, const std::string& group) {
  const std::lock_guard lock(mutex_);
  groups_[comm] = {.name = group, .running = {}};
}

bool NcclWatch::Remove(ncclComm_t comm) {
  const std::lock_guard lock(mutex_);
  groups_.erase(comm);
  return failure_.empty();
}

void NcclWatch::Begin(ncclComm_t comm, std::string label, int64_t call) {
  ThrowIfFailed();
  const std::lock_guard lock(mutex_);
  groups_[comm].running.push_back(
      {.label = std::move(label), .call = call, .begun = MonotonicSeconds(), .done = nullptr});
}

void NcclWatch::Enqueued(ncclComm_t comm, std::shared_ptr<kernels::cuda::Event> done) {
  const std::lock_guard lock(mutex_);
  groups_[comm].running.back().done = std::move(done);
}

void NcclWatch::ThrowIfFailed() {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw Error(ExitCode::kHang, failure_);
}

void NcclWatch::Fail(ncclComm_t comm, const std::string& what) {
  {
    const std::lock_guard lock(mutex_);
    FailLocked(groups_[comm], what);
  }
  ThrowIfFailed();
  throw Error(ExitCode::kHang, what);  // not reached
}

// The first failure counts: the others follow from it.
void NcclWatch::FailLocked(const Group& group, const std::string& what) {
  if (!failure_.empty()) return;
  const std::string label = group.running.empty() ? "" : group.running.front().label;
  failure_ = fmt::format(
      "NCCL in the {} group, collective \"{}\": {}; see the other ranks' logs and set "
      "NCCL_DEBUG=WARN",
      group.name, label, what);
  for (const auto& [comm, unused] : groups_) ncclCommAbort(comm);
}

void NcclWatch::Look(ncclComm_t comm, Group& group) {
  while (!group.running.empty() && group.running.front().done != nullptr &&
         group.running.front().done->IsDone()) {
    if (const int64_t call = group.running.front().call; call > 0) recorder_->Done(call);
    group.running.pop_front();
  }
  ncclResult_t error = ncclSuccess;
  if (ncclCommGetAsyncError(comm, &error) == ncclSuccess && error != ncclSuccess &&
      error != ncclInProgress) {
    FailLocked(group, ncclGetErrorString(error));
  } else if (!group.running.empty() &&
             MonotonicSeconds() - group.running.front().begun > timeout_seconds_) {
    FailLocked(group, fmt::format("not ended after {:g} s", timeout_seconds_));
  }
}

void NcclWatch::Run() {
  kernels::cuda::UseDevice(device_);
  std::unique_lock lock(mutex_);
  while (!closed_) {
    for (auto& [comm, group] : groups_) {
      if (failure_.empty()) Look(comm, group);
    }
    changed_.wait_for(lock, kInterval);
  }
}

}  // namespace sepia::dist
