#include "dist/nccl_communicator.h"

#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/integer.h"
#include "dist/nccl_group.h"
#include "kernels/cuda/rank_sum.h"

namespace sepia::dist {
namespace {

using kernels::cuda::DeviceMemory;
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
    group_.clock().AddUp();
    traffic.operations += operations_;
    traffic.bytes_sent += bytes_sent_;
    traffic.busy_seconds += group_.clock().busy_seconds();
    traffic.waited_seconds += group_.clock().waited_seconds();
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
