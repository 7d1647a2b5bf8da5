// Graphs on the emulated device: what a capture records and refuses, what a launch runs, and the
// cache of kernels/device_graphs.h.
#include "kernels/cuda/graph.h"

#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/emulation/streams.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rank_sum.h"
#include "kernels/device.h"
#include "kernels/device_graphs.h"

namespace sepia::kernels::cuda {
namespace {

using ::testing::HasSubstr;

uint8_t FirstByte(const DeviceMemory& memory) {
  Stream stream;
  uint8_t value = 0;
  CopyToHost(stream, &value, memory.data<void>(), 1);
  stream.Synchronize();
  return value;
}

void Set(Stream& stream, const DeviceMemory& memory, uint8_t value) {
  SetBytes(stream, memory.data<void>(), value, memory.size());
}

void Copy(Stream& stream, const DeviceMemory& to, const DeviceMemory& from) {
  CopyOnDevice(stream, to.data<void>(), from.data<void>(), to.size());
}

TEST(GraphTest, RecordsCopiesSetsAndKernelsWithTheirArguments) {
  Stream stream;
  const DeviceMemory a(16), b(16);
  Set(stream, a, 1);
  Set(stream, b, 0);
  const auto capture = [&](float own, float received) {
    const DeviceMemory* const out = &b;
    GraphCapture recording(stream);
    std::vector<uint8_t> bytes(4);
    std::memcpy(bytes.data(), &own, 4);
    for (size_t i = 0; i < 4; ++i) SetBytes(stream, a.data<uint8_t>() + i, bytes[i], 1);
    std::memcpy(bytes.data(), &received, 4);
    for (size_t i = 0; i < 4; ++i) SetBytes(stream, a.data<uint8_t>() + 8 + i, bytes[i], 1);
    // rank 1's part comes from received[1].
    SumOverRanks(stream, {.dtype = DType::kFloat32,
                          .count = 1,
                          .num_ranks = 2,
                          .own_rank = 0,
                          .own = a.data<float>(),
                          .received = a.data<float>() + 1,
                          .out = out->data<float>()});
    return recording.End();
  };
  const Graph graph = capture(2.0f, 3.0f);
  EXPECT_EQ(graph.NumNodes(), 9u);
  EXPECT_EQ(FirstByte(a), 1);  // nothing has run
  GraphExec exec(graph);
  for (int i = 0; i < 2; ++i) {
    Set(stream, b, 0);
    exec.Launch(stream);
    float sum = 0;
    CopyToHost(stream, &sum, b.data<void>(), 4);
    EXPECT_EQ(sum, 5.0f);
  }
  ASSERT_TRUE(exec.Update(capture(4.0f, 5.0f)));
  exec.Launch(stream);
  float sum = 0;
  CopyToHost(stream, &sum, b.data<void>(), 4);
  EXPECT_EQ(sum, 9.0f);
}

TEST(GraphTest, UpdateNeedsTheSameNodesAndEdges) {
  Stream stream;
  const DeviceMemory a(16), b(16);
  const auto capture = [&](bool copy) {
    GraphCapture recording(stream);
    Set(stream, a, 7);
    if (copy) Copy(stream, b, a);
    return recording.End();
  };
  Set(stream, b, 0);
  GraphExec exec(capture(true));
  EXPECT_FALSE(exec.Update(capture(false)));
  exec.Launch(stream);
  EXPECT_EQ(FirstByte(b), 7);
}

// Another stream takes part from the event that it waits for to the one that is waited for. Its
// nodes run as late as their edges allow.
TEST(GraphTest, EventsAreEdges) {
  Stream stream, other;
  const DeviceMemory a(16), early(16), late(16);
  std::optional<Graph> graph;
  {
    GraphCapture recording(stream);
    Event forked, joined;
    Set(stream, a, 1);
    forked.Record(stream);
    forked.MakeWait(other);
    Copy(other, early, a);
    Set(stream, a, 2);  // nothing orders this behind the copy
    joined.Record(other);
    joined.MakeWait(stream);
    Copy(stream, late, a);
    graph.emplace(recording.End());
  }
  GraphExec(*graph).Launch(stream);
  EXPECT_EQ(FirstByte(early), 2);
  EXPECT_EQ(FirstByte(late), 2);
  // The streams are free again.
  Set(other, a, 3);
  EXPECT_EQ(FirstByte(a), 3);
}

TEST(GraphTest, LaunchesObeyLateStreams) {
  Stream now;
  const DeviceMemory a(16);
  Set(now, a, 1);
  std::optional<Graph> graph;
  {
    GraphCapture recording(now);
    Set(now, a, 2);
    graph.emplace(recording.End());
  }
  GraphExec exec(*graph);
  const emulation::LateStreams late;
  Stream stream;
  exec.Launch(stream);
  EXPECT_EQ(FirstByte(a), 1);
  stream.Synchronize();
  EXPECT_EQ(FirstByte(a), 2);
}

// Runs `what` in a capture: it must be refused with these words, and the capture must fail.
void ExpectRefused(const std::string& words, const std::function<void(Stream&)>& what) {
  SCOPED_TRACE(words);
  Stream stream;
  GraphCapture recording(stream);
  std::string refusal;
  try {
    what(stream);
  } catch (const DeviceError& error) {
    refusal = error.what();
  }
  EXPECT_THAT(refusal, HasSubstr(words));
  EXPECT_THROW(recording.End(), DeviceError);
}

TEST(GraphTest, CapturesRefuseWhatCudaRefuses) {
  const DeviceMemory memory(16);
  PinnedMemory pinned(16);
  std::vector<char> pageable(16);
  Stream outside;
  Event before;
  before.Record(outside);
  ExpectRefused("allocating device memory", [](Stream&) { DeviceMemory more(16); });
  ExpectRefused("allocating pinned memory", [](Stream&) { PinnedMemory more(16); });
  ExpectRefused("waiting for a stream", [](Stream& stream) { stream.Synchronize(); });
  ExpectRefused("waiting for a stream", [&](Stream&) { outside.Synchronize(); });
  ExpectRefused("waiting for an event", [&](Stream&) { before.Synchronize(); });
  ExpectRefused("work outside the capture", [&](Stream& stream) { before.MakeWait(stream); });
  ExpectRefused("a copy from pageable memory", [&](Stream& stream) {
    CopyToDevice(stream, memory.data<void>(), pageable.data(), 16);
  });
  ExpectRefused("a copy to pageable memory", [&](Stream& stream) {
    CopyToHost(stream, pageable.data(), memory.data<void>(), 16);
  });
  ExpectRefused("the legacy stream", [](Stream&) {
    emulation::RunOnStream(nullptr, emulation::WorkKind::kLibrary, [] {});
  });
  ExpectRefused("another capture", [&](Stream&) { GraphCapture again(outside); });
  ExpectRefused("an event that was recorded in a capture", [](Stream& stream) {
    Event inside;
    inside.Record(stream);
    static_cast<void>(inside.IsDone());
  });
  // Pinned memory is what a graph may copy from, at each launch anew.
  Stream stream;
  GraphCapture recording(stream);
  CopyToDevice(stream, memory.data<void>(), pinned.data(), 16);
  GraphExec exec(recording.End());
  std::memset(pinned.data(), 9, 16);
  exec.Launch(stream);
  EXPECT_EQ(FirstByte(memory), 9);
}

TEST(GraphTest, FreeingMemoryEndsACapture) {
  Stream stream;
  std::optional<DeviceMemory> memory(std::in_place, 16);
  GraphCapture recording(stream);
  Set(stream, *memory, 1);
  memory.reset();
  EXPECT_THROW(recording.End(), DeviceError);
}

TEST(GraphTest, StreamsThatTakePartMustBeWaitedFor) {
  Stream stream, other;
  const DeviceMemory a(16);
  GraphCapture recording(stream);
  Event forked;
  forked.Record(stream);
  forked.MakeWait(other);
  Set(other, a, 1);
  EXPECT_THROW(recording.End(), DeviceError);
}

TEST(GraphTest, ACaptureThatIsLeftEarlyIsDropped) {
  Stream stream;
  const DeviceMemory a(16);
  {
    GraphCapture recording(stream);
    Set(stream, a, 1);
  }
  Set(stream, a, 2);
  EXPECT_EQ(FirstByte(a), 2);
}

TEST(GraphTest, FreedMemoryMakesGraphsStale) {
  Stream stream;
  std::optional<DeviceMemory> used(std::in_place, 16);
  std::optional<Graph> graph;
  {
    GraphCapture recording(stream);
    Set(stream, *used, 1);
    graph.emplace(recording.End());
  }
  GraphExec exec(*graph);
  const uint64_t before = NumAllocations();
  { const DeviceMemory later(16); }
  EXPECT_EQ(NumAllocations(), before + 1);
  EXPECT_TRUE(exec.IsIntact());
  used.reset();
  EXPECT_FALSE(exec.IsIntact());
  EXPECT_THROW(exec.Launch(stream), DeviceError);
}

// Work on scratch that the caller replaces by a larger one.
class DeviceGraphsTest : public ::testing::Test {
 protected:
  DeviceGraphsTest() { OpenDevice(/*local_rank=*/0); }

  // Sets the scratch to `value`; returns what it holds then.
  uint8_t Run(int64_t shape, int64_t grid, uint8_t value) {
    graphs_.Run({{shape}, {grid}}, [&] { Set(MainStream(), *scratch_, value); });
    return FirstByte(*scratch_);
  }

  DeviceGraphs graphs_{Device::kCuda, /*capacity=*/2};
  std::optional<DeviceMemory> scratch_{std::in_place, 16};
};

TEST_F(DeviceGraphsTest, FirstOpByOpThenCapturedThenLaunched) {
  EXPECT_EQ(Run(1, 1, 10), 10);
  EXPECT_EQ(graphs_.counts().op_by_op, 1);
  EXPECT_EQ(Run(1, 1, 20), 20);
  EXPECT_EQ(graphs_.counts().captured, 1);
  EXPECT_EQ(Run(1, 1, 30), 20);  // what was captured
  EXPECT_EQ(Run(1, 2, 40), 40);  // another grid
  EXPECT_EQ(Run(2, 1, 50), 50);
  EXPECT_EQ(graphs_.counts().op_by_op, 2);
  EXPECT_EQ(graphs_.counts().captured, 2);
  EXPECT_EQ(graphs_.counts().launched, 3);
}

TEST_F(DeviceGraphsTest, TheGraphThatWaitedLongestGivesItsPlace) {
  Run(1, 0, 0);
  for (const int grid : {1, 2, 1, 3}) Run(1, grid, static_cast<uint8_t>(grid));
  EXPECT_EQ(graphs_.counts().captured, 3);
  EXPECT_EQ(graphs_.counts().updated, 1);
  EXPECT_EQ(Run(1, 1, 99), 1);
  EXPECT_EQ(Run(1, 3, 99), 3);
  EXPECT_EQ(Run(1, 2, 99), 99);  // was dropped
}

TEST_F(DeviceGraphsTest, ScratchThatGrowsIsCapturedAnew) {
  Run(1, 1, 1);
  Run(1, 1, 2);
  scratch_.emplace(1 << 20);
  EXPECT_EQ(Run(1, 1, 3), 3);
  EXPECT_EQ(graphs_.counts().stale, 1);
  EXPECT_EQ(Run(1, 1, 4), 3);
}

TEST_F(DeviceGraphsTest, WorkThatCannotBeCapturedIsAnError) {
  Run(1, 1, 1);
  const auto waits = [] { MainStream().Synchronize(); };
  EXPECT_THROW(graphs_.Run({{1}, {2}}, waits), DeviceError);
  EXPECT_EQ(Run(1, 3, 5), 5);  // the stream captures no longer
}

}  // namespace
}  // namespace sepia::kernels::cuda
