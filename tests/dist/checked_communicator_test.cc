// The decorator names the rank whose call differs, on every rank.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "dist/communicator.h"
#include "dist/thread_ranks.h"

namespace sepia::dist {
namespace {

using ::testing::HasSubstr;

// Runs `body` on three checked ranks; returns the message, which must be the same on all of them.
std::string Complaint(const std::function<void(Communicator&)>& body) {
  std::vector<std::string> messages(3);
  RunThreadRanks(3, [&](std::unique_ptr<Communicator> world) {
    const auto checked = MakeCheckedCommunicator(std::move(world));
    try {
      body(*checked);
    } catch (const InternalError& error) {
      messages[static_cast<size_t>(checked->rank())] = error.what();
    }
  });
  EXPECT_EQ(messages[0], messages[1]);
  EXPECT_EQ(messages[0], messages[2]);
  return messages[0];
}

void AllReduceFloats(Communicator& group, int64_t count, const char* label) {
  kernels::Context ctx;
  std::vector<float> values(static_cast<size_t>(count));
  group.AllReduce(ctx, TensorView::Of(std::span(values), {count}), ReduceOp::kSum, label).Wait();
}

TEST(CheckedCommunicator, IsSilentWhenRanksAgree) {
  EXPECT_EQ(Complaint([](Communicator& group) {
              AllReduceFloats(group, 5, "loss");
              group.Barrier("end");
              EXPECT_EQ(group.Split(0, 0, "all")->size(), 3);
            }),
            "");
}

TEST(CheckedCommunicator, NamesARankWithAnotherCount) {
  EXPECT_THAT(Complaint([](Communicator& group) {
                group.Barrier("begin");
                AllReduceFloats(group, group.rank() == 1 ? 6 : 5, "loss");
              }),
              HasSubstr("collective 2 of the world group: rank 1 called AllReduce sum \"loss\" of "
                        "6 f32, but rank 0 called AllReduce sum \"loss\" of 5 f32"));
}

TEST(CheckedCommunicator, NamesARankWithAnotherLabel) {
  EXPECT_THAT(Complaint([](Communicator& group) {
                AllReduceFloats(group, 5, group.rank() == 0 ? "loss" : "norm");
              }),
              HasSubstr("rank 0 called AllReduce sum \"loss\" of 5 f32, but rank 1 called"));
}

TEST(CheckedCommunicator, NamesARankThatSkippedACall) {
  EXPECT_THAT(Complaint([](Communicator& group) {
                if (group.rank() != 2) AllReduceFloats(group, 5, "loss");
                group.Barrier("end");
              }),
              HasSubstr("rank 2 called Barrier \"end\", but rank 0 called AllReduce"));
}

TEST(CheckedCommunicator, NamesARankWithAnotherDType) {
  EXPECT_THAT(Complaint([](Communicator& group) {
                kernels::Context ctx;
                std::vector<std::byte> memory(8);
                const DType dtype = group.rank() == 2 ? DType::kInt32 : DType::kFloat32;
                group.Broadcast(ctx, TensorView(memory.data(), dtype, {2}), 0, "x").Wait();
              }),
              HasSubstr("rank 2 called Broadcast from rank 0 \"x\" of 2 i32"));
}

}  // namespace
}  // namespace sepia::dist
