// Blocks reach the kernels in order and whole, whenever the copies and the kernels run.
#include "kernels/cuda/batch_stages.h"

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/emulation/streams.h"

namespace sepia::kernels::cuda {
namespace {

constexpr size_t kBytes = 64;
constexpr int kBlocks = 6;

std::unique_ptr<Stream> MakeStream(bool late) {
  std::optional<emulation::LateStreams> are_late;
  if (late) are_late.emplace();
  return std::make_unique<Stream>();
}

// Block i is full of i + 1; "kernels" copy what is current into result i, and the host looks at the
// results at the end only.
void ExpectAllBlocks(bool late_compute, bool late_copies) {
  const std::unique_ptr<Stream> compute = MakeStream(late_compute);
  std::optional<emulation::LateStreams> late;
  if (late_copies) late.emplace();
  BatchStages stages(*compute, kBytes);
  const DeviceMemory results(kBlocks * kBytes);
  const auto stage = [&](int i) {
    stages.Stage(kBytes, [&](std::byte* to) { std::memset(to, i + 1, kBytes); });
  };
  stage(0);
  for (int i = 0; i < kBlocks; ++i) {
    stages.Load();
    if (i + 1 < kBlocks) stage(i + 1);
    CopyOnDevice(*compute, results.data<char>() + static_cast<size_t>(i) * kBytes, stages.current(),
                 kBytes);
  }
  std::vector<char> host(results.size());
  CopyToHost(*compute, host.data(), results.data<void>(), host.size());
  compute->Synchronize();
  for (size_t i = 0; i < host.size(); ++i) {
    ASSERT_EQ(host[i], static_cast<char>(i / kBytes + 1)) << "byte " << i;
  }
  // The host did not wait: blocks that were on their way have memory of their own.
  EXPECT_LE(stages.num_pinned(), late_compute ? static_cast<size_t>(kBlocks) : 2u);
}

TEST(BatchStagesTest, LateCopiesAreWaitedFor) { ExpectAllBlocks(false, true); }
TEST(BatchStagesTest, AStageIsNotWrittenBeforeItIsRead) { ExpectAllBlocks(true, false); }
TEST(BatchStagesTest, AllAtOnceOrAllLate) {
  ExpectAllBlocks(false, false);
  ExpectAllBlocks(true, true);
}

}  // namespace
}  // namespace sepia::kernels::cuda
