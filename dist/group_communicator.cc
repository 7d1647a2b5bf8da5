// All-reduce is a reduce-scatter by direct exchange (every rank receives its slice from all others
// and adds in rank order), then an all-gather: 2 (n-1)/n of the data sent by each of n ranks, as in
// a ring, in two steps. Small tensors are gathered whole instead, one step, n-1 times the data.
#include "dist/group_communicator.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "dist/message_sizes.h"
#include "dist/reduce.h"
#include "dist/work_queue.h"

namespace sepia::dist {
namespace {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

// Adds the time of a scope, also when it is left by an exception.
class TimeInto {
 public:
  explicit TimeInto(std::atomic<int64_t>& nanoseconds) : nanoseconds_(nanoseconds) {}
  ~TimeInto() { nanoseconds_ += static_cast<int64_t>(timer_.Seconds() * 1e9); }
  TimeInto(const TimeInto&) = delete;
  TimeInto& operator=(const TimeInto&) = delete;

 private:
  std::atomic<int64_t>& nanoseconds_;
  const Timer timer_;
};

template <typename T>
std::span<T> Part(T* base, int64_t begin, int64_t size) {
  return {base + begin, static_cast<size_t>(size)};
}

class GroupCommunicator final : public Communicator {
 public:
  GroupCommunicator(std::shared_ptr<Transport> transport, std::shared_ptr<FlightRecorder> recorder,
                    std::string name, const std::optional<int>& color)
      : transport_(std::move(transport)),
        recorder_(std::move(recorder)),
        name_(std::move(name)),
        title_(color ? fmt::format("{}[{}]", name_, *color) : name_),
        rank_(transport_->rank()),
        size_(transport_->size()) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }

  Pending AllReduce(kernels::Context&, TensorView data, ReduceOp op,
                    std::string_view label) override {
    CheckOnHost(data);
    return Start("AllReduce", label, data.num_bytes(), [=, this] {
      data.num_bytes() <= kSmallAllReduceBytes ? ReduceSmall(data, op) : ReduceLarge(data, op);
    });
  }

  Pending ReduceScatter(kernels::Context&, ConstTensorView input, TensorView output, ReduceOp op,
                        std::string_view label) override {
    CheckOnHost(input);
    CheckOnHost(output);
    CHECK(input.dtype() == output.dtype() && input.num_elements() == size_ * output.num_elements(),
          "{}: reduce-scatter of {} into {} on {} ranks", label, input.shape(), output.shape(),
          size_);
    return Start("ReduceScatter", label, input.num_bytes(),
                 [=, this] { Scatter(input, output, op); });
  }

  Pending AllGather(kernels::Context&, ConstTensorView input, TensorView output,
                    std::string_view label) override {
    CheckOnHost(input);
    CheckOnHost(output);
    CHECK(input.dtype() == output.dtype() && output.num_elements() == size_ * input.num_elements(),
          "{}: all-gather of {} into {} on {} ranks", label, input.shape(), output.shape(), size_);
    return Start("AllGather", label, output.num_bytes(), [=, this] { Gather(input, output); });
  }

  Pending Broadcast(kernels::Context&, TensorView data, int root, std::string_view label) override {
    CheckOnHost(data);
    CHECK(root >= 0 && root < size_, "root {} of {}", root, size_);
    return Start("Broadcast", label, data.num_bytes(), [=, this] { SendFrom(root, data); });
  }

  void Barrier(std::string_view label) override {
    Start("Barrier", label, 0, [this] {
      std::vector<std::byte> received(static_cast<size_t>(size_));
      const std::byte token{};
      Exchange([&](int) { return ConstBytes(&token, 1); },
               [&](int r) { return Bytes(&received[static_cast<size_t>(r)], 1); });
    }).Wait();
  }

  std::unique_ptr<Communicator> Split(int color, int key, const std::string& name) override {
    std::shared_ptr<Transport> part;
    Start("Split", name, 0, [&] { part = transport_->Split(color, key); }).Wait();
    return MakeGroupCommunicator(std::move(part), recorder_, name, color);
  }

  void Abort(int exit_code) override { transport_->Abort(exit_code); }

  Traffic traffic() const override {
    return {.operations = operations_.load(),
            .bytes_sent = bytes_sent_.load(),
            .busy_seconds = 1e-9 * static_cast<double>(busy_.load()),
            .waited_seconds = 1e-9 * static_cast<double>(waited_.load())};
  }
  std::shared_ptr<FlightRecorder> recorder() override { return recorder_; }

 private:
  static void CheckOnHost(const ConstTensorView& tensor) {
    CHECK(tensor.device() == Device::kCpu, "this communicator moves host memory only");
  }

  template <typename Work>
  Pending Start(const char* operation, std::string_view label, int64_t bytes, Work work) {
    const int64_t call = recorder_->Asked(title_, ++operations_, operation, label, bytes);
    auto done = queue_.Push([this, call, work = std::move(work)] {
      const TimeInto time(busy_);
      recorder_->Started(call);
      work();
      recorder_->Done(call);
    });
    return Pending([this, done = std::move(done)] {
      const TimeInto time(waited_);
      done.get();
    });
  }

  // outgoing(r) and incoming(r): the bytes for and from rank r.
  template <typename Outgoing, typename Incoming>
  void Exchange(const Outgoing& outgoing, const Incoming& incoming) {
    std::vector<ConstBytes> out(static_cast<size_t>(size_));
    std::vector<Bytes> in(static_cast<size_t>(size_));
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      out[static_cast<size_t>(r)] = outgoing(r);
      in[static_cast<size_t>(r)] = incoming(r);
      bytes_sent_ += static_cast<int64_t>(out[static_cast<size_t>(r)].size());
    }
    transport_->Exchange(out, in);
  }

  // Room for `bytes` from every rank; reused by later calls, which run on the same thread.
  std::byte* Staging(int64_t bytes) {
    const auto needed = static_cast<size_t>(bytes * size_);
    if (staging_.size() < needed) staging_.resize(needed);
    return staging_.data();
  }

  // Receives from each rank r the bytes it sends here, `bytes` in size, and combines them with
  // `own`, which stands for this rank, into `out`.
  template <typename Outgoing>
  void ReceiveAndReduce(const Outgoing& outgoing, int64_t bytes, const std::byte* own, DType dtype,
                        ReduceOp op, std::byte* out) {
    std::byte* staging = Staging(bytes);
    Exchange(outgoing, [&](int r) { return Part(staging, r * bytes, bytes); });
    std::vector<const void*> parts;
    for (int r = 0; r < size_; ++r) parts.push_back(r == rank_ ? own : staging + r * bytes);
    ReduceInOrder(parts, bytes / DTypeSize(dtype), dtype, op, out);
  }

  void ReduceSmall(const TensorView& data, ReduceOp op) {
    auto* bytes = static_cast<std::byte*>(data.raw());
    ReceiveAndReduce([&](int) { return Part<const std::byte>(bytes, 0, data.num_bytes()); },
                     data.num_bytes(), bytes, data.dtype(), op, bytes);
  }

  void ReduceLarge(const TensorView& data, ReduceOp op) {
    auto* base = static_cast<std::byte*>(data.raw());
    const int64_t element = DTypeSize(data.dtype());
    const int64_t step = size_ * (kSegmentBytes / element);
    for (int64_t begin = 0; begin < data.num_elements(); begin += step) {
      const int64_t count = std::min(step, data.num_elements() - begin);
      // Rank r combines elements [first(r), first(r + 1)).
      const auto first = [&](int r) { return begin + count * r / size_; };
      const auto slice = [&](int r) {
        return Part(base, first(r) * element, (first(r + 1) - first(r)) * element);
      };
      const Bytes own = slice(rank_);
      ReceiveAndReduce([&](int r) { return ConstBytes(slice(r)); },
                       static_cast<int64_t>(own.size()), own.data(), data.dtype(), op, own.data());
      Exchange([&](int) { return ConstBytes(own); }, slice);
    }
  }

  void Scatter(const ConstTensorView& input, const TensorView& output, ReduceOp op) {
    const auto* from = static_cast<const std::byte*>(input.raw());
    auto* to = static_cast<std::byte*>(output.raw());
    const int64_t slice = output.num_bytes();
    for (int64_t begin = 0; begin < slice; begin += kSegmentBytes) {
      const int64_t bytes = std::min(kSegmentBytes, slice - begin);
      ReceiveAndReduce([&](int r) { return Part(from, r * slice + begin, bytes); }, bytes,
                       from + rank_ * slice + begin, input.dtype(), op, to + begin);
    }
  }

  void Gather(const ConstTensorView& input, const TensorView& output) {
    const auto* from = static_cast<const std::byte*>(input.raw());
    auto* to = static_cast<std::byte*>(output.raw());
    const int64_t bytes = input.num_bytes();
    Exchange([&](int) { return Part(from, 0, bytes); },
             [&](int r) { return Part(to, r * bytes, bytes); });
    std::byte* own = to + rank_ * bytes;
    if (bytes > 0 && own != from) std::memmove(own, from, static_cast<size_t>(bytes));
  }

  void SendFrom(int root, const TensorView& data) {
    auto* bytes = static_cast<std::byte*>(data.raw());
    Exchange(
        [&](int) { return Part<const std::byte>(bytes, 0, rank_ == root ? data.num_bytes() : 0); },
        [&](int r) { return Part(bytes, 0, r == root ? data.num_bytes() : 0); });
  }

  std::shared_ptr<Transport> transport_;
  std::shared_ptr<FlightRecorder> recorder_;
  std::string name_;
  std::string title_;  // tells groups of one name apart
  int rank_, size_;
  std::vector<std::byte> staging_;
  std::atomic<int64_t> operations_ = 0;
  std::atomic<int64_t> bytes_sent_ = 0;
  std::atomic<int64_t> busy_ = 0, waited_ = 0;  // nanoseconds
  WorkQueue queue_;                             // last: its thread uses the rest
};

}  // namespace

std::unique_ptr<Communicator> MakeGroupCommunicator(std::shared_ptr<Transport> transport,
                                                    std::shared_ptr<FlightRecorder> recorder,
                                                    const std::string& name,
                                                    std::optional<int> color) {
  if (transport->size() == 1) return MakeSelfCommunicator(name);
  return std::make_unique<GroupCommunicator>(std::move(transport), std::move(recorder), name,
                                             color);
}

}  // namespace sepia::dist
