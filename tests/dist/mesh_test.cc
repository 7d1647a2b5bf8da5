// The world of one process is a real communicator; ranks form a grid, tensor ranks innermost.
#include "dist/mesh.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "dist/agreement.h"
#include "dist/thread_ranks.h"

namespace sepia::dist {
namespace {

TEST(SelfCommunicator, CollectivesOfOneRankAreCopies) {
  kernels::Context ctx;
  const auto self = MakeSelfCommunicator();
  std::vector<float> values = {1, 2, 3};
  std::vector<float> copy(3);
  const TensorView view = TensorView::Of(std::span(values), {3});
  const TensorView copy_view = TensorView::Of(std::span(copy), {3});
  self->AllReduce(ctx, view, ReduceOp::kSum, "test").Wait();
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));
  self->AllGather(ctx, view, copy_view, "test").Wait();
  EXPECT_EQ(copy, values);
  values[0] = 7;
  self->ReduceScatter(ctx, view, copy_view, ReduceOp::kSum, "test").Wait();
  EXPECT_EQ(copy[0], 7);
  EXPECT_EQ(self->Split(0, 0, "part")->size(), 1);
}

TEST(Pending, WaitsOnceAndOnDestruction) {
  int waits = 0;
  {
    Pending pending([&] { ++waits; });
    pending.Wait();
    pending.Wait();
    EXPECT_EQ(waits, 1);
    Pending dropped([&] { ++waits; });
    const Pending moved = std::move(dropped);
  }
  EXPECT_EQ(waits, 2);
}

TEST(Pending, DestructionKeepsErrorsToItself) {
  Pending pending([] { throw UserError("lost"); });
  EXPECT_THROW(pending.Wait(), UserError);
  const Pending dropped([] { throw UserError("lost"); });
}

TEST(Mesh, PutsTensorRanksNextToEachOther) {
  RunThreadRanks(6, [](std::unique_ptr<Communicator> world) {
    const int rank = world->rank();
    Mesh mesh(std::move(world), /*tensor=*/2);
    EXPECT_EQ(mesh.tensor().size(), 2);
    EXPECT_EQ(mesh.tensor().rank(), rank % 2);
    EXPECT_EQ(mesh.data().size(), 3);
    EXPECT_EQ(mesh.data().rank(), rank / 2);
    EXPECT_EQ(mesh.data().name(), "data");
  });
}

TEST(Mesh, KeepsTensorGroupsInsideANode) {
  const std::vector<std::string> nodes = {"a", "a", "b", "b", "b", "b"};
  const auto make = [&](int tensor) {
    RunThreadRanks(6, [&](std::unique_ptr<Communicator> world) {
      const std::string node = nodes[static_cast<size_t>(world->rank())];
      Mesh(std::move(world), tensor, node);
    });
  };
  make(2);
  try {
    make(3);
    FAIL() << "ranks 0-2 are on two nodes";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_THAT(error.what(), testing::HasSubstr("ranks 0 (on a) and 2 (on b)"));
    EXPECT_THAT(error.what(), testing::HasSubstr("one of: 1, 2"));
  }
}

TEST(Mesh, RefusesALayoutThatDoesNotDivide) {
  Mesh mesh(MakeSelfCommunicator(), 1);
  EXPECT_EQ(mesh.data().size(), 1);
  EXPECT_EQ(mesh.tensor().size(), 1);
  EXPECT_THROW(Mesh(MakeSelfCommunicator(), 2), UserError);
  EXPECT_THROW(Mesh(MakeSelfCommunicator(), 0), UserError);
}

}  // namespace
}  // namespace sepia::dist
