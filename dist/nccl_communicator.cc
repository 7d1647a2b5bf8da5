#include "dist/nccl_communicator.h"

#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "base/integer.h"
#include "dist/flight_recorder.h"
#include "dist/nccl_watch.h"
#include "kernels/cuda/rank_sum.h"

namespace sepia::dist {
namespace {

using kernels::cuda::DeviceMemory;
using kernels::cuda::Event;
using kernels::cuda::RankSumParams;
using kernels::cuda::Stream;

// What arrives from all ranks at a time, to be added.
constexpr int64_t kStagingBytes = int64_t{32} << 20;

ncclDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return ncclFloat32;
    case DType::kBFloat16: return ncclBfloat16;
    case DType::kFloat16: return ncclFloat16;
    case DType::kFloat64: return ncclFloat64;
    case DType::kInt64: return ncclInt64;
    case DType::kInt32: return ncclInt32;
    default: CHECK(DTypeSize(dtype) == 1, "NCCL moves no {}", DTypeName(dtype)); return ncclUint8;
  }
}

ncclRedOp_t OpOf(ReduceOp op) {
  return op == ReduceOp::kSum ? ncclSum : op == ReduceOp::kMin ? ncclMin : ncclMax;
}

// What all groups of a rank share.
struct NcclRank {
  NcclRank(Communicator& host, Stream& stream, const NcclOptions& how)
      : compute(stream),
        options(how),
        recorder(host.recorder()),
        watch(how.timeout_seconds, kernels::cuda::UsedDevice(), recorder) {}

  Stream& compute;
  const NcclOptions options;
  const std::shared_ptr<FlightRecorder> recorder;  // or null
  NcclWatch watch;
  // NCCL's kernels wait for their peers on the GPU, and those of two communicators may each hold
  // what the other needs: NVIDIA asks for one order on all ranks. So a group's collective runs
  // behind the last one of any group.
  std::shared_ptr<Event> last;
};

// When a collective ran, and when the compute stream had nothing left to do but wait for it.
struct CollectiveTimes {
  Event begun, done, asked;
  bool was_asked = false;
};

// One NCCL communicator: creation without blocking, its stream, its end.
class NcclGroup {
 public:
  // `host` has the ranks of the group.
  NcclGroup(Communicator& host, std::shared_ptr<NcclRank> rank)
      : rank_(std::move(rank)), name_(host.name()) {
    ncclUniqueId id = {};
    if (host.rank() == 0) Require(ncclGetUniqueId(&id), "ncclGetUniqueId");
    kernels::Context ctx;
    host.Broadcast(ctx, TensorView(id.internal, DType::kUInt8, {int64_t{sizeof(id.internal)}}), 0,
                   "NCCL's unique id")
        .Wait();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t result =
        ncclCommInitRankConfig(&comm_, host.size(), id, host.rank(), &config);
    if (result != ncclSuccess && result != ncclInProgress) {
      Require(result, "ncclCommInitRankConfig");
    }
    watch().Add(comm_, name_);
    watch().Begin(comm_, "making the group");
    Settle(result);
    auto made = std::make_shared<Event>();
    made->Record(stream_);
    watch().Enqueued(comm_, made);
  }
  ~NcclGroup() {
    if (watch().Remove(comm_)) ncclCommDestroy(comm_);
  }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // Enqueues work() on stream() behind what the compute stream holds now.
  template <typename Work>
  Pending Start(const char* operation, std::string_view label, int64_t bytes, const Work& work) {
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
    work();
    times->done.Record(stream_);
    const std::shared_ptr<Event> done(times, &times->done);
    watch().Enqueued(comm_, done);
    rank_->last = done;
    AddUp();
    {
      const std::lock_guard lock(times_mutex_);
      times_.push_back(times);
    }
    return Pending([this, times] {
      watch().ThrowIfFailed();
      {
        const std::lock_guard lock(times_mutex_);
        times->asked.Record(rank_->compute);
        times->was_asked = true;
      }
      times->done.MakeWait(rank_->compute);
    });
  }

  // Adds the time of collectives that are over to the sums.
  void AddUp() {
    const std::lock_guard lock(times_mutex_);
    while (!times_.empty()) {
      const CollectiveTimes& times = *times_.front();
      if (!times.was_asked || !times.done.IsDone() || !times.asked.IsDone()) return;
      busy_seconds_ += 1e-3 * times.done.MillisecondsSince(times.begun);
      waited_seconds_ += 1e-3 * std::max(0.0f, times.done.MillisecondsSince(times.asked));
      times_.pop_front();
    }
  }
  double busy_seconds() const { return busy_seconds_; }
  double waited_seconds() const { return waited_seconds_; }

  // Calls between ncclGroupStart and ncclGroupEnd, and waits until NCCL has taken them.
  template <typename Calls>
  void Call(const Calls& calls) {
    ncclGroupStart();
    ncclResult_t result = calls(comm_, static_cast<cudaStream_t>(stream_.handle()));
    const ncclResult_t ended = ncclGroupEnd();
    if (result == ncclSuccess || result == ncclInProgress) result = ended;
    Settle(result);
  }

  Stream& stream() { return stream_; }

 private:
  static void Require(ncclResult_t result, const char* call) {
    if (result == ncclSuccess) return;
    throw UserError(ExitCode::kEnvironment,
                    fmt::format("{}: {}", call, ncclGetErrorString(result)));
  }

  // A call without blocking is done when the communicator says so. The watch ends a hang.
  void Settle(ncclResult_t result) {
    while (result == ncclInProgress) {
      watch().ThrowIfFailed();
      if (ncclCommGetAsyncError(comm_, &result) != ncclSuccess) result = ncclInternalError;
      if (result == ncclInProgress) std::this_thread::yield();
    }
    if (result == ncclSuccess) return;
    watch().ThrowIfFailed();
    watch().Fail(comm_, ncclGetErrorString(result));
  }

  NcclWatch& watch() { return rank_->watch; }

  std::shared_ptr<NcclRank> rank_;
  const std::string name_;
  Stream stream_;
  ncclComm_t comm_ = nullptr;
  int64_t calls_ = 0;
  std::mutex times_mutex_;
  std::deque<std::shared_ptr<CollectiveTimes>> times_;  // not added up yet, oldest first
  std::atomic<double> busy_seconds_ = 0, waited_seconds_ = 0;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, std::shared_ptr<NcclRank> shared)
      : host_(std::move(host)),
        shared_(std::move(shared)),
        group_(*host_, shared_),
        rank_(host_->rank()),
        size_(host_->size()) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return host_->name(); }

  Pending AllReduce(kernels::Context& ctx, TensorView data, ReduceOp op,
                    std::string_view label) override {
    if (!IsOnDevice(data)) return host_->AllReduce(ctx, data, op, label);
    return Start("AllReduce", label, data, [&] {
      if (AddsInRankOrder(data.dtype(), op)) return SumEverywhere(data);
      Count(2 * data.num_bytes() * (size_ - 1) / size_);
      group_.Call([&](ncclComm_t comm, cudaStream_t stream) {
        return ncclAllReduce(data.raw(), data.raw(), Elements(data), TypeOf(data.dtype()), OpOf(op),
                             comm, stream);
      });
    });
  }

  Pending ReduceScatter(kernels::Context& ctx, ConstTensorView input, TensorView output,
                        ReduceOp op, std::string_view label) override {
    CHECK(input.dtype() == output.dtype() && input.num_elements() == size_ * output.num_elements(),
          "{}: reduce-scatter of {} into {} on {} ranks", label, input.shape(), output.shape(),
          size_);
    if (!IsOnDevice(input)) return host_->ReduceScatter(ctx, input, output, op, label);
    return Start("ReduceScatter", label, input, [&] {
      if (AddsInRankOrder(input.dtype(), op)) return SumSlices(input, output);
      Count(input.num_bytes() * (size_ - 1) / size_);
      group_.Call([&](ncclComm_t comm, cudaStream_t stream) {
        return ncclReduceScatter(input.raw(), output.raw(), Elements(output), TypeOf(input.dtype()),
                                 OpOf(op), comm, stream);
      });
    });
  }

  Pending AllGather(kernels::Context& ctx, ConstTensorView input, TensorView output,
                    std::string_view label) override {
    CHECK(input.dtype() == output.dtype() && output.num_elements() == size_ * input.num_elements(),
          "{}: all-gather of {} into {} on {} ranks", label, input.shape(), output.shape(), size_);
    if (!IsOnDevice(input)) return host_->AllGather(ctx, input, output, label);
    return Start("AllGather", label, input, [&] {
      Count(input.num_bytes() * (size_ - 1));
      group_.Call([&](ncclComm_t comm, cudaStream_t stream) {
        return ncclAllGather(input.raw(), output.raw(), Bytes(input), ncclUint8, comm, stream);
      });
    });
  }

  Pending Broadcast(kernels::Context& ctx, TensorView data, int root,
                    std::string_view label) override {
    CHECK(root >= 0 && root < size_, "root {} of {}", root, size_);
    if (!IsOnDevice(data)) return host_->Broadcast(ctx, data, root, label);
    return Start("Broadcast", label, data, [&] {
      if (rank_ == root) Count(data.num_bytes());
      group_.Call([&](ncclComm_t comm, cudaStream_t stream) {
        return ncclBroadcast(data.raw(), data.raw(), Bytes(data), ncclUint8, root, comm, stream);
      });
    });
  }

  void Barrier(std::string_view label) override { host_->Barrier(label); }

  std::unique_ptr<Communicator> Split(int color, int key, const std::string& name) override {
    auto part = host_->Split(color, key, name);
    if (part->size() == 1) return part;
    return std::make_unique<NcclCommunicator>(std::move(part), shared_);
  }

  void Abort(int exit_code) override { host_->Abort(exit_code); }

  Traffic traffic() const override {
    Traffic traffic = host_->traffic();
    group_.AddUp();
    traffic.operations += operations_;
    traffic.bytes_sent += bytes_sent_;
    traffic.busy_seconds += group_.busy_seconds();
    traffic.waited_seconds += group_.waited_seconds();
    return traffic;
  }
  std::shared_ptr<FlightRecorder> recorder() override { return host_->recorder(); }

 private:
  static bool IsOnDevice(const ConstTensorView& tensor) { return tensor.device() == Device::kCuda; }
  static size_t Elements(const ConstTensorView& t) { return static_cast<size_t>(t.num_elements()); }
  static size_t Bytes(const ConstTensorView& t) { return static_cast<size_t>(t.num_bytes()); }

  // Everything but a floating-point sum is the same in any order.
  bool AddsInRankOrder(DType dtype, ReduceOp op) const {
    if (op != ReduceOp::kSum || !IsFloating(dtype)) return false;
    CHECK(dtype != DType::kFloat64, "no sums of f64 on the device");
    return shared_->options.sums == DeviceSums::kRankOrder;
  }

  template <typename Work>
  Pending Start(const char* operation, std::string_view label, const ConstTensorView& tensor,
                const Work& work) {
    ++operations_;
    return group_.Start(operation, label, tensor.num_bytes(), work);
  }
  void Count(int64_t bytes) { bytes_sent_ += bytes; }

  // [begin, begin + count) elements of a tensor.
  struct Slice {
    std::byte* data;
    int64_t count;
  };
  using SliceOf = std::function<Slice(int rank)>;

  // Sends outgoing(r) to each other rank r and receives incoming(r) from it.
  void Exchange(DType dtype, const SliceOf& outgoing, const SliceOf& incoming) {
    group_.Call([&](ncclComm_t comm, cudaStream_t stream) {
      ncclResult_t result = ncclSuccess;
      const auto keep = [&](ncclResult_t one) {
        if (result == ncclSuccess || result == ncclInProgress) result = one;
      };
      for (int step = 1; step < size_; ++step) {
        const int to = (rank_ + step) % size_, from = (rank_ + size_ - step) % size_;
        const Slice out = outgoing(to), in = incoming(from);
        if (out.count > 0) {
          Count(out.count * DTypeSize(dtype));
          keep(ncclSend(out.data, static_cast<size_t>(out.count), TypeOf(dtype), to, comm, stream));
        }
        if (in.count > 0) {
          keep(ncclRecv(in.data, static_cast<size_t>(in.count), TypeOf(dtype), from, comm, stream));
        }
      }
      return result;
    });
  }

  // Receives the other ranks' parts of own(rank) and adds all in rank order into `out`.
  void ReceiveAndAdd(DType dtype, const SliceOf& own, std::byte* out) {
    const Slice mine = own(rank_);
    const int64_t bytes = mine.count * DTypeSize(dtype);
    if (staging_.size() < static_cast<size_t>(bytes * size_)) {
      if (staging_.size() > 0) group_.stream().Synchronize();  // the old one may be in use
      staging_ = DeviceMemory(static_cast<size_t>(bytes * size_));
    }
    auto* staging = staging_.data<std::byte>();
    Exchange(dtype, own, [&](int r) { return Slice{staging + r * bytes, mine.count}; });
    kernels::cuda::SumOverRanks(group_.stream(), {.dtype = dtype,
                                                  .count = mine.count,
                                                  .num_ranks = size_,
                                                  .own_rank = rank_,
                                                  .own = mine.data,
                                                  .received = staging,
                                                  .out = out});
  }

  // Elements of a rank's slice that are exchanged at a time.
  int64_t Step(int64_t element_bytes) const { return kStagingBytes / size_ / element_bytes; }

  void SumEverywhere(const TensorView& data) {
    auto* base = static_cast<std::byte*>(data.raw());
    const int64_t element = DTypeSize(data.dtype()), step = size_ * Step(element);
    for (int64_t begin = 0; begin < data.num_elements(); begin += step) {
      const int64_t count = std::min(step, data.num_elements() - begin);
      const int64_t part = CeilDiv(count, int64_t{size_});
      const auto slice = [&](int r) {
        const int64_t first = std::min(count, r * part);
        return Slice{base + (begin + first) * element, std::min(part, count - first)};
      };
      ReceiveAndAdd(data.dtype(), slice, slice(rank_).data);
      Exchange(
          data.dtype(), [&](int) { return slice(rank_); }, slice);
    }
  }

  void SumSlices(const ConstTensorView& input, const TensorView& output) {
    auto* base = static_cast<std::byte*>(const_cast<void*>(input.raw()));  // NOLINT: only read
    const int64_t element = DTypeSize(input.dtype()), length = output.num_elements();
    for (int64_t begin = 0; begin < length; begin += Step(element)) {
      const int64_t count = std::min(Step(element), length - begin);
      const auto slice = [&](int r) { return Slice{base + (r * length + begin) * element, count}; };
      ReceiveAndAdd(input.dtype(), slice, static_cast<std::byte*>(output.raw()) + begin * element);
    }
  }

  std::unique_ptr<Communicator> host_;
  std::shared_ptr<NcclRank> shared_;
  mutable NcclGroup group_;  // traffic() looks which collectives are over
  const int rank_, size_;
  DeviceMemory staging_;
  std::atomic<int64_t> operations_ = 0;
  std::atomic<int64_t> bytes_sent_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> MakeNcclCommunicator(std::unique_ptr<Communicator> host,
                                                   Stream& compute, const NcclOptions& options) {
  if (host->size() == 1) return host;
  auto shared = std::make_shared<NcclRank>(*host, compute, options);
  return std::make_unique<NcclCommunicator>(std::move(host), std::move(shared));
}

std::string NcclName() {
  int version = 0;
  ncclGetVersion(&version);
  if (version == 0) return "NCCL's stand-in on threads";
  // 22809: 2.28.9.
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace sepia::dist
