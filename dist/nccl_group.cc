#include "dist/nccl_group.h"

#include <algorithm>
#include <thread>

#include <fmt/format.h>

#include "base/error.h"

namespace sepia::dist {
namespace {

using kernels::cuda::Event;
using kernels::cuda::Stream;

void Require(ncclResult_t result, const char* call) {
  if (result == ncclSuccess) return;
  throw UserError(ExitCode::kEnvironment, fmt::format("{}: {}", call, ncclGetErrorString(result)));
}

}  // namespace

NcclRank::NcclRank(Communicator& host, Stream& stream, const NcclOptions& how)
    : compute(stream),
      options(how),
      recorder(host.recorder()),
      watch(how.timeout_seconds, kernels::cuda::UsedDevice(), recorder) {}

void CollectiveClock::Add(std::shared_ptr<CollectiveTimes> times) {
  AddUp();
  const std::lock_guard lock(mutex_);
  times_.push_back(std::move(times));
}

void CollectiveClock::Asked(CollectiveTimes& times, Stream& compute) {
  const std::lock_guard lock(mutex_);
  times.asked.Record(compute);
  times.was_asked = true;
}

void CollectiveClock::AddUp() {
  const std::lock_guard lock(mutex_);
  while (!times_.empty()) {
    const CollectiveTimes& times = *times_.front();
    if (!times.was_asked || !times.done.IsDone() || !times.asked.IsDone()) return;
    busy_seconds_ += 1e-3 * times.done.MillisecondsSince(times.begun);
    waited_seconds_ += 1e-3 * std::max(0.0f, times.done.MillisecondsSince(times.asked));
    times_.pop_front();
  }
}

NcclGroup::NcclGroup(Communicator& host, std::shared_ptr<NcclRank> rank)
    : rank_(std::move(rank)), name_(host.name()) {
  ncclUniqueId id = {};
  if (host.rank() == 0) Require(ncclGetUniqueId(&id), "ncclGetUniqueId");
  kernels::Context ctx;
  host.Broadcast(ctx, TensorView(id.internal, DType::kUInt8, {int64_t{sizeof(id.internal)}}), 0,
                 "NCCL's unique id")
      .Wait();
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result = ncclCommInitRankConfig(&comm_, host.size(), id, host.rank(), &config);
  if (result != ncclSuccess && result != ncclInProgress) Require(result, "ncclCommInitRankConfig");
  watch().Add(comm_, name_);
  watch().Begin(comm_, "making the group");
  Settle(result);
  auto made = std::make_shared<Event>();
  made->Record(stream_);
  watch().Enqueued(comm_, made);
}

NcclGroup::~NcclGroup() {
  if (watch().Remove(comm_)) ncclCommDestroy(comm_);
}

std::shared_ptr<CollectiveTimes> NcclGroup::Begin(const char* operation, std::string_view label,
                                                  int64_t bytes) {
  int64_t call = 0;
  if (rank_->recorder != nullptr) {
    call = rank_->recorder->Asked(name_, ++calls_, operation, label, bytes);
    rank_->recorder->Started(call);
  }
  watch().Begin(comm_, std::string(label), call);
  Event ready;
  ready.Record(rank_->compute);
  ready.MakeWait(stream_);
  if (rank_->last != nullptr) rank_->last->MakeWait(stream_);
  auto times = std::make_shared<CollectiveTimes>();
  times->begun.Record(stream_);
  return times;
}

Pending NcclGroup::End(std::shared_ptr<CollectiveTimes> times) {
  times->done.Record(stream_);
  const std::shared_ptr<Event> done(times, &times->done);
  watch().Enqueued(comm_, done);
  rank_->last = done;
  clock_.Add(times);
  return Pending([this, times] {
    watch().ThrowIfFailed();
    clock_.Asked(*times, rank_->compute);
    times->done.MakeWait(rank_->compute);
  });
}

void NcclGroup::Settle(ncclResult_t result) {
  while (result == ncclInProgress) {
    watch().ThrowIfFailed();
    if (ncclCommGetAsyncError(comm_, &result) != ncclSuccess) result = ncclInternalError;
    if (result == ncclInProgress) std::this_thread::yield();
  }
  if (result == ncclSuccess) return;
  watch().ThrowIfFailed();
  watch().Fail(comm_, ncclGetErrorString(result));
}

}  // namespace sepia::dist
