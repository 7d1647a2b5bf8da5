// Collectives over thread ranks against sums written out in rank order.
#include "dist/communicator.h"

#include <chrono>
#include <semaphore>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "dist/thread_ranks.h"
#include "tests/dist/contributions.h"

namespace sepia::dist {
namespace {

using testing::Contribution;
using testing::SameBits;
using testing::SumInRankOrder;

// Sizes around the borders of the algorithm: nothing, fewer elements than ranks, the small-message
// limit, more than one segment a rank.
constexpr int64_t kCounts[] = {0, 1, 3, 512, 513, 1031};
constexpr int64_t kLargeCount = (int64_t{1} << 20) + 7;

// fn(ranks, count) for the sizes worth testing.
template <typename Fn>
void ForEachSize(const Fn& fn) {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    for (const int64_t count : kCounts) fn(ranks, count);
  }
  fn(3, kLargeCount);
}

template <typename T, typename Wide>
void TestAllReduceSum() {
  ForEachSize([](int ranks, int64_t count) {
    const std::vector<T> expected = SumInRankOrder<T, Wide>(ranks, count);
    RunThreadRanks(ranks, [&](std::unique_ptr<Communicator> world) {
      kernels::Context ctx;
      std::vector<T> values = Contribution<T>(world->rank(), count);
      world->AllReduce(ctx, TensorView::Of(std::span(values), {count}), ReduceOp::kSum, "test")
          .Wait();
      EXPECT_TRUE(SameBits(values, expected)) << ranks << " ranks, " << count << " elements";
    });
  });
}

TEST(AllReduce, AddsFp32InRankOrder) { TestAllReduceSum<float, float>(); }
TEST(AllReduce, AddsBf16InFp32AndRoundsOnce) { TestAllReduceSum<BFloat16, float>(); }
TEST(AllReduce, AddsF16InFp32AndRoundsOnce) { TestAllReduceSum<Float16, float>(); }
TEST(AllReduce, AddsF64InRankOrder) { TestAllReduceSum<double, double>(); }
TEST(AllReduce, AddsIntegers) { TestAllReduceSum<int64_t, int64_t>(); }

TEST(AllReduce, FindsMinimumAndMaximum) {
  RunThreadRanks(3, [](std::unique_ptr<Communicator> world) {
    kernels::Context ctx;
    std::vector<int32_t> low = {world->rank(), -world->rank()};
    std::vector<int32_t> high = low;
    world->AllReduce(ctx, TensorView::Of(std::span(low), {2}), ReduceOp::kMin, "low").Wait();
    world->AllReduce(ctx, TensorView::Of(std::span(high), {2}), ReduceOp::kMax, "high").Wait();
    EXPECT_EQ(low, (std::vector<int32_t>{0, -2}));
    EXPECT_EQ(high, (std::vector<int32_t>{2, 0}));
  });
}

TEST(ReduceScatter, GivesEachRankItsSliceOfTheSum) {
  ForEachSize([](int ranks, int64_t slice) {
    const std::vector<float> sum = SumInRankOrder<float, float>(ranks, slice * ranks);
    RunThreadRanks(ranks, [&](std::unique_ptr<Communicator> world) {
      kernels::Context ctx;
      std::vector<float> values = Contribution<float>(world->rank(), slice * ranks);
      const TensorView all = TensorView::Of(std::span(values), {ranks * slice});
      const TensorView own = all.Rows(world->rank() * slice, slice);
      world->ReduceScatter(ctx, all, own, ReduceOp::kSum, "test").Wait();
      const std::span<float> got = own.span<float>();
      const auto begin = sum.begin() + world->rank() * slice;
      EXPECT_TRUE(SameBits(std::vector<float>(got.begin(), got.end()),
                           std::vector<float>(begin, begin + slice)));
    });
  });
}

TEST(AllGather, ConcatenatesInRankOrder) {
  ForEachSize([](int ranks, int64_t slice) {
    std::vector<float> expected;
    for (int r = 0; r < ranks; ++r) {
      const std::vector<float> part = Contribution<float>(r, slice);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    RunThreadRanks(ranks, [&](std::unique_ptr<Communicator> world) {
      kernels::Context ctx;
      const std::vector<float> part = Contribution<float>(world->rank(), slice);
      std::vector<float> all(static_cast<size_t>(ranks * slice));
      world
          ->AllGather(ctx, ConstTensorView::Of(std::span(part), {slice}),
                      TensorView::Of(std::span(all), {ranks * slice}), "test")
          .Wait();
      EXPECT_TRUE(SameBits(all, expected));
    });
  });
}

TEST(Broadcast, CopiesTheRootsValues) {
  RunThreadRanks(3, [](std::unique_ptr<Communicator> world) {
    kernels::Context ctx;
    std::vector<float> values = Contribution<float>(world->rank(), 700);
    world->Broadcast(ctx, TensorView::Of(std::span(values), {700}), 1, "test").Wait();
    EXPECT_TRUE(SameBits(values, Contribution<float>(1, 700)));
  });
}

TEST(Communicator, CollectivesRunWhileTheRankComputes) {
  RunThreadRanks(2, [](std::unique_ptr<Communicator> world) {
    kernels::Context ctx;
    std::vector<float> a = {1}, b = {10};
    Pending first = world->AllReduce(ctx, TensorView::Of(std::span(a), {1}), ReduceOp::kSum, "a");
    Pending second = world->AllReduce(ctx, TensorView::Of(std::span(b), {1}), ReduceOp::kSum, "b");
    second.Wait();  // in any order
    first.Wait();
    EXPECT_EQ(a[0], 2);
    EXPECT_EQ(b[0], 20);
  });
}

// A block's sum over tensor ranks passes while a bucket of gradients waits for the other data rank,
// which here comes only when it has seen the sum done.
TEST(Communicator, AGroupDoesNotWaitForAnother) {
  std::counting_semaphore<2> sums_done(0);
  RunThreadRanks(4, [&](std::unique_ptr<Communicator> world) {
    kernels::Context ctx;
    const auto data = world->Split(world->rank() % 2, world->rank(), "data");
    const auto tensor = world->Split(world->rank() / 2, world->rank(), "tensor");
    std::vector<float> bucket(2000, 1), block(2000, 10);
    const TensorView gradients = TensorView::Of(std::span(bucket), {2000});
    const TensorView values = TensorView::Of(std::span(block), {2000});
    if (data->rank() == 1) {
      EXPECT_TRUE(sums_done.try_acquire_for(std::chrono::seconds(30)));
    }
    Pending waits = data->AllReduce(ctx, gradients, ReduceOp::kSum, "bucket");
    tensor->AllReduce(ctx, values, ReduceOp::kSum, "block").Wait();
    if (data->rank() == 0) sums_done.release();
    waits.Wait();
    EXPECT_EQ(bucket, std::vector<float>(2000, 2));
    EXPECT_EQ(block, std::vector<float>(2000, 20));
  });
}

TEST(Communicator, SplitOrdersByKeyAndKeepsGroupsApart) {
  RunThreadRanks(6, [](std::unique_ptr<Communicator> world) {
    const int color = world->rank() % 2;
    const auto part = world->Split(color, -world->rank(), "part");
    EXPECT_EQ(part->size(), 3);
    EXPECT_EQ(part->rank(), 2 - world->rank() / 2);
    EXPECT_EQ(part->name(), "part");
    kernels::Context ctx;
    int32_t sum = world->rank();
    part->AllReduce(ctx, TensorView(&sum, DType::kInt32, {1}), ReduceOp::kSum, "test").Wait();
    EXPECT_EQ(sum, color == 0 ? 0 + 2 + 4 : 1 + 3 + 5);
    EXPECT_EQ(part->Split(part->rank(), 0, "alone")->size(), 1);
  });
}

// docs/parallelism.md: bytes on the wire.
TEST(Communicator, CountsBytesSent) {
  constexpr int64_t kRanks = 4;
  constexpr int64_t kBytes = 64 << 10;  // of the whole tensor
  RunThreadRanks(kRanks, [](std::unique_ptr<Communicator> world) {
    kernels::Context ctx;
    std::vector<float> whole(kBytes / 4), slice(kBytes / 4 / kRanks);
    const TensorView whole_view = TensorView::Of(std::span(whole), {kBytes / 4});
    const TensorView slice_view = TensorView::Of(std::span(slice), {kBytes / 4 / kRanks});
    int64_t before = 0;
    const auto sent = [&] {
      return world->traffic().bytes_sent - std::exchange(before, world->traffic().bytes_sent);
    };
    world->AllReduce(ctx, whole_view, ReduceOp::kSum, "test").Wait();
    EXPECT_EQ(sent(), 2 * (kRanks - 1) * kBytes / kRanks);
    world->ReduceScatter(ctx, whole_view, slice_view, ReduceOp::kSum, "test").Wait();
    EXPECT_EQ(sent(), (kRanks - 1) * kBytes / kRanks);
    world->AllGather(ctx, slice_view, whole_view, "test").Wait();
    EXPECT_EQ(sent(), (kRanks - 1) * kBytes / kRanks);
    world->AllReduce(ctx, whole_view.Rows(0, 8), ReduceOp::kSum, "small").Wait();
    EXPECT_EQ(sent(), (kRanks - 1) * 32);
    EXPECT_EQ(world->traffic().operations, 4);
  });
}

}  // namespace
}  // namespace sepia::dist
