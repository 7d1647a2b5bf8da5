// The communicator over MPI: run by mpirun with several ranks; the same sums as over threads.
#include <vector>

#include <gtest/gtest.h>

#include "dist/communicator.h"
#include "dist/gather.h"
#include "tests/dist/contributions.h"

namespace sepia::dist {
namespace {

using testing::Contribution;
using testing::SameBits;
using testing::SumInRankOrder;

// MPI starts once a process.
Communicator& World() {
  static const std::unique_ptr<Communicator> world = MakeWorldCommunicator();
  return *world;
}

template <typename T>
void ExpectSumInRankOrder(int64_t count) {
  kernels::Context ctx;
  std::vector<T> values = Contribution<T>(World().rank(), count);
  World().AllReduce(ctx, TensorView::Of(std::span(values), {count}), ReduceOp::kSum, "test").Wait();
  EXPECT_TRUE(SameBits(values, SumInRankOrder<T, float>(World().size(), count)));
}

TEST(MpiWorld, HasTheRanksOfTheLauncher) { EXPECT_EQ(World().size(), 3); }

TEST(MpiWorld, AddsInRankOrder) {
  for (const int64_t count : {int64_t{1}, int64_t{1000}, (int64_t{1} << 20) + 7}) {
    ExpectSumInRankOrder<float>(count);
    ExpectSumInRankOrder<BFloat16>(count);
  }
}

TEST(MpiWorld, ScattersAndGathers) {
  kernels::Context ctx;
  constexpr int64_t kSlice = 1001;
  const int64_t all = kSlice * World().size();
  std::vector<float> values = Contribution<float>(World().rank(), all);
  const TensorView view = TensorView::Of(std::span(values), {all});
  const TensorView own = view.Rows(World().rank() * kSlice, kSlice);
  World().ReduceScatter(ctx, view, own, ReduceOp::kSum, "scatter").Wait();
  World().AllGather(ctx, own, view, "gather").Wait();
  EXPECT_TRUE(SameBits(values, SumInRankOrder<float, float>(World().size(), all)));
}

TEST(MpiWorld, SplitsAndExchangesTexts) {
  const auto part = World().Split(World().rank() == 0 ? 0 : 1, World().rank(), "part");
  EXPECT_EQ(part->size(), World().rank() == 0 ? 1 : 2);
  EXPECT_EQ(GatherTexts(World(), std::to_string(World().rank()), "test"),
            (std::vector<std::string>{"0", "1", "2"}));
  World().Barrier("end");
}

// Rank 2 takes part in the sum of all only when rank 0 has told it that the pair's is done.
TEST(MpiWorld, AGroupDoesNotWaitForAnother) {
  kernels::Context ctx;
  const int rank = World().rank();
  const auto pair = World().Split(rank < 2 ? 0 : 1, rank, "pair");
  const auto ends = World().Split(rank == 1 ? 1 : 0, rank, "ends");
  std::vector<float> all(100000, 1), two(100000, 10);
  const TensorView all_view = TensorView::Of(std::span(all), {100000});
  int32_t word = rank;
  const TensorView word_view(&word, DType::kInt32, {1});
  if (rank == 2) ends->Broadcast(ctx, word_view, 0, "go").Wait();
  Pending waits = World().AllReduce(ctx, all_view, ReduceOp::kSum, "all");
  pair->AllReduce(ctx, TensorView::Of(std::span(two), {100000}), ReduceOp::kSum, "pair").Wait();
  if (rank == 0) ends->Broadcast(ctx, word_view, 0, "go").Wait();
  waits.Wait();
  EXPECT_EQ(all, std::vector<float>(100000, 3));
  EXPECT_EQ(two, std::vector<float>(100000, rank == 2 ? 10 : 20));
}

}  // namespace
}  // namespace sepia::dist
