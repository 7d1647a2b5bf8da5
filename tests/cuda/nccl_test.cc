// Collectives over device tensors: thread ranks over the stand-in of NCCL against sums written out
// in rank order and against the host communicator; a broken rank and a missing one.
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include "base/error.h"
#include "dist/flight_recorder.h"
#include "dist/mesh.h"
#include "dist/nccl_communicator.h"
#include "dist/thread_ranks.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/streams.h"
#include "kernels/cuda/graph.h"
#include "tests/dist/contributions.h"

namespace sepia::dist {
namespace {

using kernels::cuda::DeviceMemory;
using kernels::cuda::Stream;
using ::sepia::testing::Contribution;
using ::sepia::testing::SameBits;
using ::sepia::testing::SumInRankOrder;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Values on the device.
template <typename T>
class DeviceVector {
 public:
  DeviceVector(Stream& stream, const std::vector<T>& values)
      : stream_(stream), size_(values.size()), memory_(size_ * sizeof(T) + 1) {
    CopyToDevice(stream, memory_.data<void>(), values.data(), size_ * sizeof(T));
  }
  TensorView view() const {
    return TensorView(memory_.data<void>(), DTypeOf<T>::value, {static_cast<int64_t>(size_)},
                      Device::kCuda);
  }
  std::vector<T> Download() const {
    std::vector<T> values(size_);
    CopyToHost(stream_, values.data(), memory_.data<void>(), size_ * sizeof(T));
    stream_.Synchronize();
    return values;
  }

 private:
  Stream& stream_;
  size_t size_;
  DeviceMemory memory_;
};

using Body = std::function<void(Communicator&, Stream&)>;

// Runs `body` on ranks with a stream each.
void OnRanks(int ranks, const Body& body, const NcclOptions& options = {}) {
  RunThreadRanks(ranks, [&](std::unique_ptr<Communicator> host) {
    Stream compute;
    const auto world = MakeNcclCommunicator(std::move(host), compute, options);
    body(*world, compute);
  });
}

kernels::Context DeviceContext() { return {.device = Device::kCuda}; }

template <typename T, typename Wide>
void TestSums() {
  for (const int ranks : {1, 2, 3, 5}) {
    for (const int64_t count : {0, 1, 7, 64, 1031}) {
      const std::vector<T> expected = SumInRankOrder<T, Wide>(ranks, count);
      OnRanks(ranks, [&](Communicator& world, Stream& compute) {
        auto ctx = DeviceContext();
        const DeviceVector<T> data(compute, Contribution<T>(world.rank(), count));
        world.AllReduce(ctx, data.view(), ReduceOp::kSum, "test").Wait();
        EXPECT_TRUE(SameBits(data.Download(), expected)) << ranks << " ranks, " << count;
      });
    }
  }
}

TEST(NcclAllReduce, AddsFp32InRankOrder) { TestSums<float, float>(); }
TEST(NcclAllReduce, AddsBf16InFp32AndRoundsOnce) { TestSums<BFloat16, float>(); }
TEST(NcclAllReduce, AddsF16InFp32AndRoundsOnce) { TestSums<Float16, float>(); }

// More than one exchange of staging memory.
TEST(NcclAllReduce, AddsLargeTensors) {
  const int64_t count = (int64_t{9} << 20) + 5;
  const auto expected = SumInRankOrder<float, float>(2, count);
  OnRanks(2, [&](Communicator& world, Stream& compute) {
    auto ctx = DeviceContext();
    const DeviceVector<float> data(compute, Contribution<float>(world.rank(), count));
    world.AllReduce(ctx, data.view(), ReduceOp::kSum, "large").Wait();
    EXPECT_TRUE(SameBits(data.Download(), expected));
  });
}

TEST(NcclAllReduce, FindsMinimumAndMaximumAndAddsIntegers) {
  OnRanks(3, [](Communicator& world, Stream& compute) {
    auto ctx = DeviceContext();
    const int32_t own = world.rank() + 1;
    const DeviceVector<int32_t> low(compute, {own, -own}), high(compute, {own, -own}),
        sum(compute, {own, -own});
    world.AllReduce(ctx, low.view(), ReduceOp::kMin, "low").Wait();
    world.AllReduce(ctx, high.view(), ReduceOp::kMax, "high").Wait();
    world.AllReduce(ctx, sum.view(), ReduceOp::kSum, "sum").Wait();
    EXPECT_EQ(low.Download(), (std::vector<int32_t>{1, -3}));
    EXPECT_EQ(high.Download(), (std::vector<int32_t>{3, -1}));
    EXPECT_EQ(sum.Download(), (std::vector<int32_t>{6, -6}));
  });
}

// NCCL's own sums: not in rank order, but the same on all ranks.
TEST(NcclAllReduce, NcclsOwnSumsAgreeAmongRanks) {
  constexpr int64_t kCount = 200;
  const auto in_order = SumInRankOrder<BFloat16, float>(3, kCount);
  std::vector<std::vector<BFloat16>> sums(3);
  OnRanks(3,
          [&](Communicator& world, Stream& compute) {
            auto ctx = DeviceContext();
            const DeviceVector<BFloat16> data(compute,
                                              Contribution<BFloat16>(world.rank(), kCount));
            world.AllReduce(ctx, data.view(), ReduceOp::kSum, "test").Wait();
            sums[static_cast<size_t>(world.rank())] = data.Download();
          },
          {.sums = DeviceSums::kNccl});
  EXPECT_TRUE(SameBits(sums[0], sums[1]));
  EXPECT_TRUE(SameBits(sums[0], sums[2]));
  EXPECT_FALSE(SameBits(sums[0], in_order)) << "the stand-in should not add in rank order";
}

TEST(NcclReduceScatter, GivesEachRankItsSlice) {
  constexpr int64_t kSlice = 37;
  for (const DeviceSums how : {DeviceSums::kRankOrder, DeviceSums::kNccl}) {
    const auto all = SumInRankOrder<float, float>(2, 2 * kSlice);
    OnRanks(2,
            [&](Communicator& world, Stream& compute) {
              auto ctx = DeviceContext();
              const DeviceVector<float> input(compute,
                                              Contribution<float>(world.rank(), 2 * kSlice));
              // In place, as ZeRO-1 does.
              const TensorView slice = input.view().Rows(world.rank() * kSlice, kSlice);
              world.ReduceScatter(ctx, input.view(), slice, ReduceOp::kSum, "test").Wait();
              const auto values = input.Download();
              const auto begin = static_cast<std::ptrdiff_t>(world.rank() * kSlice);
              // Two addends have one sum, whatever the order.
              EXPECT_TRUE(std::equal(values.begin() + begin, values.begin() + begin + kSlice,
                                     all.begin() + begin));
            },
            {.sums = how});
  }
}

TEST(NcclAllGather, AndBroadcastMoveAnyDtype) {
  OnRanks(3, [](Communicator& world, Stream& compute) {
    auto ctx = DeviceContext();
    const auto own = static_cast<uint8_t>(10 * (world.rank() + 1));
    const DeviceVector<uint8_t> input(compute, {own, own}), output(compute, {0, 0, 0, 0, 0, 0});
    world.AllGather(ctx, input.view(), output.view(), "gather").Wait();
    EXPECT_EQ(output.Download(), (std::vector<uint8_t>{10, 10, 20, 20, 30, 30}));
    world.Broadcast(ctx, input.view(), 1, "broadcast").Wait();
    EXPECT_EQ(input.Download(), (std::vector<uint8_t>{20, 20}));
  });
}

TEST(NcclCommunicator, HostTensorsGoOverTheHost) {
  OnRanks(2, [](Communicator& world, Stream&) {
    kernels::Context ctx;
    std::vector<float> values = Contribution<float>(world.rank(), 5);
    world.AllReduce(ctx, TensorView::Of(std::span(values), {5}), ReduceOp::kSum, "host").Wait();
    EXPECT_TRUE(SameBits(values, SumInRankOrder<float, float>(2, 5)));
    world.Barrier("host");
  });
}

TEST(NcclCommunicator, AMeshOfGroups) {
  RunThreadRanks(4, [](std::unique_ptr<Communicator> host) {
    Stream compute;
    Mesh mesh(MakeNcclCommunicator(std::move(host), compute), 2, "node");
    auto ctx = DeviceContext();
    const int rank = mesh.world().rank();
    const DeviceVector<float> tensor(compute, {1.0f + static_cast<float>(rank)}),
        data(compute, {1.0f + static_cast<float>(rank)});
    Pending first = mesh.tensor().AllReduce(ctx, tensor.view(), ReduceOp::kSum, "tensor");
    Pending second = mesh.data().AllReduce(ctx, data.view(), ReduceOp::kSum, "data");
    first.Wait();
    second.Wait();
    EXPECT_EQ(tensor.Download(), std::vector<float>{rank < 2 ? 3.0f : 7.0f});
    EXPECT_EQ(data.Download(), std::vector<float>{rank % 2 == 0 ? 4.0f : 6.0f});
  });
}

// The same with collectives that run as late as they may.
void OnRanksWithLateGroups(
    int ranks, const std::function<void(std::unique_ptr<Communicator>, Stream&)>& body) {
  std::vector<std::unique_ptr<Stream>> compute;  // not late
  for (int r = 0; r < ranks; ++r) compute.push_back(std::make_unique<Stream>());
  const kernels::cuda::emulation::LateStreams late;
  RunThreadRanks(ranks, [&](std::unique_ptr<Communicator> host) {
    Stream& own = *compute[static_cast<size_t>(host->rank())];
    body(MakeNcclCommunicator(std::move(host), own), own);
  });
}

// Rank r of four contributes r + 1; one at a time, in the order of the calls, without waiting for
// the first: the tensor groups add up what the data groups left.
TEST(NcclCommunicator, GroupsFollowEachOther) {
  OnRanksWithLateGroups(4, [](std::unique_ptr<Communicator> world, Stream& compute) {
    Mesh mesh(std::move(world), 2, "node");
    auto ctx = DeviceContext();
    const std::vector<float> own = {1.0f + static_cast<float>(mesh.world().rank())};
    const DeviceVector<float> value(compute, own);
    Pending first = mesh.data().AllReduce(ctx, value.view(), ReduceOp::kSum, "data");
    Pending second = mesh.tensor().AllReduce(ctx, value.view(), ReduceOp::kSum, "tensor");
    EXPECT_EQ(value.Download(), own);
    second.Wait();
    EXPECT_EQ(value.Download(), std::vector<float>{10.0f});
  });
}

// Run at the call, a collective is over when somebody asks for it; run when somebody asks, nothing
// of it is hidden.
TEST(NcclCommunicator, MeasuresWhatTheComputeStreamWaitsFor) {
  const auto measure = [](Communicator& world, Stream& compute) {
    auto ctx = DeviceContext();
    const DeviceVector<float> data(compute, std::vector<float>(1000));
    const Traffic before = world.traffic();  // making the group took the host some time
    world.AllReduce(ctx, data.view(), ReduceOp::kSum, "test").Wait();
    Traffic traffic = world.traffic();
    traffic.busy_seconds -= before.busy_seconds;
    traffic.waited_seconds -= before.waited_seconds;
    return traffic;
  };
  OnRanks(2, [&](Communicator& world, Stream& compute) {
    const Traffic traffic = measure(world, compute);
    EXPECT_GT(traffic.busy_seconds, 0);
    EXPECT_LT(traffic.waited_seconds, traffic.busy_seconds);
  });
  OnRanksWithLateGroups(2, [&](std::unique_ptr<Communicator> world, Stream& compute) {
    const Traffic traffic = measure(*world, compute);
    EXPECT_GT(traffic.busy_seconds, 0);
    EXPECT_GE(traffic.waited_seconds, 0.99 * traffic.busy_seconds);  // floats of milliseconds
  });
}

// The watchdog of the run reads it.
TEST(NcclCommunicator, RecordsCollectives) {
  OnRanks(2, [](Communicator& world, Stream& compute) {
    auto ctx = DeviceContext();
    const DeviceVector<float> data(compute, {1, 2});
    world.AllReduce(ctx, data.view(), ReduceOp::kSum, "recorded").Wait();
    const auto recorder = world.recorder();
    ASSERT_NE(recorder, nullptr);
    const auto is_done = [&] {
      for (const Collective& c : recorder->Read().collectives) {
        if (c.label.view() != "recorded") continue;
        EXPECT_EQ(c.operation.view(), "AllReduce");
        EXPECT_EQ(c.bytes, 8);
        return c.state == Collective::State::kDone;
      }
      ADD_FAILURE() << "not on record";
      return true;
    };
    while (!is_done()) std::this_thread::yield();  // the watch looks in its own time
  });
}

TEST(NcclCommunicator, CountsWhatItSends) {
  OnRanks(2, [](Communicator& world, Stream& compute) {
    auto ctx = DeviceContext();
    const DeviceVector<float> data(compute, std::vector<float>(1000));
    const Traffic before = world.traffic();
    world.AllReduce(ctx, data.view(), ReduceOp::kSum, "test").Wait();
    EXPECT_EQ(world.traffic().operations, before.operations + 1);
    EXPECT_EQ(world.traffic().bytes_sent, before.bytes_sent + 4000);  // half, twice
  });
}

TEST(NcclCommunicator, MemoryThatIsNotOnTheDeviceIsAFault) {
  const auto body = [](Communicator& world, Stream&) {
    auto ctx = DeviceContext();
    float values[] = {1, 2};  // one that each rank sends: neither waits for the other
    world
        .AllReduce(ctx, TensorView(values, DType::kFloat32, {2}, Device::kCuda), ReduceOp::kSum,
                   "test")
        .Wait();
  };
  EXPECT_THROW(OnRanks(2, body, {.timeout_seconds = 60}), kernels::cuda::emulation::Fault);
}

// They wait for those of other groups: micro-batches that have some stay outside of graphs.
TEST(NcclCommunicator, CollectivesAreNotCaptured) {
  OnRanks(2, [](Communicator& world, Stream& compute) {
    auto ctx = DeviceContext();
    const DeviceVector<float> data(compute, {1, 2, 3});
    const auto sum = [&] { world.AllReduce(ctx, data.view(), ReduceOp::kSum, "test").Wait(); };
    sum();  // allocates
    const kernels::cuda::GraphCapture recording(compute);
    EXPECT_THROW(sum(), kernels::cuda::DeviceError);
  });
}

// What both ranks throw, when `body` fails on all of them.
std::vector<std::string> MessagesOf(const Body& body, const NcclOptions& options) {
  std::vector<std::string> messages(2);
  OnRanks(
      2,
      [&](Communicator& world, Stream& compute) {
        try {
          body(world, compute);
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ExitCode::kHang);
          messages[static_cast<size_t>(world.rank())] = error.what();
        }
      },
      options);
  return messages;
}

// Holds for the calls before the one that hangs as well: longer than a busy machine delays a
// thread.
constexpr double kTimeout = 2;

void ReduceOnce(Communicator& world, Stream& compute, std::string_view label) {
  auto ctx = DeviceContext();
  const DeviceVector<float> data(compute, {1, 2, 3});
  world.AllReduce(ctx, data.view(), ReduceOp::kSum, label).Wait();
}

TEST(NcclWatch, AnErrorOfOneRankEndsAllRanks) {
  struct Repair {
    ~Repair() { kernels::cuda::emulation::BreakNcclRank(-1, ncclSuccess); }
  } repair;
  const auto messages = MessagesOf(
      [](Communicator& world, Stream& compute) {
        ReduceOnce(world, compute, "good");
        world.Barrier("both are done");
        if (world.rank() == 1) kernels::cuda::emulation::BreakNcclRank(1, ncclRemoteError);
        world.Barrier("broken");
        ReduceOnce(world, compute, "bad");
        ReduceOnce(world, compute, "after");
        ADD_FAILURE() << "rank " << world.rank() << " goes on";
      },
      {.timeout_seconds = kTimeout});
  EXPECT_THAT(messages[1], AllOf(HasSubstr("world group"), HasSubstr("collective \"bad\""),
                                 HasSubstr("remote process exited")));
  // The message of rank 0 tells what it sees: nothing comes.
  EXPECT_THAT(messages[0], HasSubstr("not ended after 2 s"));
}

TEST(NcclWatch, ARankThatDoesNotComeIsAHang) {
  const auto messages = MessagesOf(
      [](Communicator& world, Stream& compute) {
        if (world.rank() == 0) ReduceOnce(world, compute, "lonely");
      },
      {.timeout_seconds = kTimeout});
  EXPECT_THAT(messages[0], AllOf(HasSubstr("collective \"lonely\""), HasSubstr("not ended")));
  EXPECT_EQ(messages[1], "");
}

TEST(LocalRank, CountsTheRanksOfANode) {
  RunThreadRanks(
      3, [](std::unique_ptr<Communicator> world) { EXPECT_EQ(LocalRank(*world), world->rank()); });
}

}  // namespace
}  // namespace sepia::dist
