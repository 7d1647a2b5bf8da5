// The world of one process is a real communicator.
#include "dist/mesh.h"

#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"

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
  EXPECT_EQ(self->Split(0, 0)->size(), 1);
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

TEST(Mesh, RefusesALayoutThatDoesNotDivide) {
  Mesh mesh(MakeSelfCommunicator(), 1);
  EXPECT_EQ(mesh.data().size(), 1);
  EXPECT_EQ(mesh.tensor().size(), 1);
  EXPECT_THROW(Mesh(MakeSelfCommunicator(), 2), UserError);
  EXPECT_THROW(Mesh(MakeSelfCommunicator(), 0), UserError);
}

}  // namespace
}  // namespace sepia::dist
