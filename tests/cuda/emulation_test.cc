// The emulator itself: warp instructions against layouts worked out by hand from the PTX ISA, and
// every fault that it exists to find.
#include "kernels/cuda/emulation/emulation.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/intrinsics.cuh"

namespace sepia::kernels::cuda {
namespace {

using emulation::AllCounters;
using emulation::AsyncCopies;
using emulation::Fault;
using emulation::MutableOptions;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class EmulationTest : public ::testing::Test {
 protected:
  ~EmulationTest() override {
    MutableOptions() = {};
    emulation::ResetCounters();
  }

  // Runs one block; returns the fault's message, empty if none.
  template <typename Argument>
  std::string Run(void (*kernel)(Argument), Argument argument, uint32_t threads = 32,
                  size_t shared_bytes = 1024) {
    try {
      Launch(stream_, {.name = "test", .grid = {}, .block = threads, .shared_bytes = shared_bytes},
             kernel, argument);
    } catch (const Fault& fault) {
      return fault.what();
    }
    return "";
  }

  Stream stream_;
};

// Distinct small integers, exact in either format.
float ElementA(int row, int k) { return static_cast<float>(row * 16 + k - 100); }
float ElementB(int k, int column) { return static_cast<float>(k * 8 + column - 60); }
float ElementC(int row, int column) { return static_cast<float>(row * 8 + column) * 0.5f; }

// Places of the PTX ISA's figures, written as its formulas: for A, group = lane >> 2, i = 0..7:
// row = group for i in {0, 1, 4, 5} else group + 8; column = (lane % 4) * 2 + (i & 1) (+ 8, i >=
// 4).
template <typename Format>
SEPIA_KERNEL(32, 1)
MultiplyGolden(float* out) {
  const int lane = ThreadIndex(), group = lane >> 2, in_group = lane % 4;
  uint32_t a[4], b[2];
  for (int i = 0; i < 8; i += 2) {
    const int row = (i == 0 || i == 4) ? group : group + 8;
    const int k = in_group * 2 + (i >= 4 ? 8 : 0);
    a[i / 2] = Pack(Format{}, ElementA(row, k), ElementA(row, k + 1));
  }
  for (int i = 0; i < 4; i += 2) {
    const int k = in_group * 2 + (i >= 2 ? 8 : 0);
    b[i / 2] = Pack(Format{}, ElementB(k, group), ElementB(k + 1, group));
  }
  float c[4];
  for (int i = 0; i < 4; ++i) {
    c[i] = ElementC(i < 2 ? group : group + 8, in_group * 2 + (i & 1));
  }
  MultiplyAdd(Format{}, c, a, b);
  for (int i = 0; i < 4; ++i) {
    StoreGlobal(out + (i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1), c[i]);
  }
}

TEST_F(EmulationTest, MmaMatchesTheDocumentedLayout) {
  for (const auto kernel : {&MultiplyGolden<Bf16>, &MultiplyGolden<Fp16>}) {
    const DeviceMemory out(16 * 8 * 4);
    ASSERT_EQ(Run(kernel, out.data<float>()), "");
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        float expected = ElementC(row, column);
        for (int k = 0; k < 16; ++k) expected += ElementA(row, k) * ElementB(k, column);
        EXPECT_EQ(out.data<float>()[row * 8 + column], expected) << row << " " << column;
      }
    }
  }
  EXPECT_EQ(AllCounters()["test"].mma, 2);
}

struct LoadGoldenArgs {
  uint32_t* out;  // [32][4]
  bool transposed;
};

// Shared memory holds element (m, row, column) = m * 64 + row * 8 + column.
SEPIA_KERNEL(32, 1) LoadGolden(LoadGoldenArgs args) {
  auto* elements = reinterpret_cast<uint16_t*>(SharedMemory());
  const int lane = ThreadIndex();
  for (int i = 0; i < 8; ++i) StoreShared(elements + lane * 8 + i, lane * 8 + i);
  SyncThreads();
  uint32_t r[4];
  if (args.transposed) {
    LoadMatricesTransposed(r, elements + lane * 8);
  } else {
    LoadMatrices(r, elements + lane * 8);
  }
  for (int i = 0; i < 4; ++i) StoreGlobal(args.out + lane * 4 + i, r[i]);
}

// PTX ISA: thread `lane` receives of row lane / 4 the elements 2 (lane % 4) and the next; with
// .trans of column lane / 4.
TEST_F(EmulationTest, LoadMatricesMatchesTheDocumentedLayout) {
  for (const bool transposed : {false, true}) {
    const DeviceMemory out(32 * 4 * 4);
    ASSERT_EQ(Run(&LoadGolden, LoadGoldenArgs{out.data<uint32_t>(), transposed}), "");
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t m = 0; m < 4; ++m) {
        const uint32_t major = lane / 4, minor = lane % 4 * 2;
        const auto element = [&](uint32_t n) {
          return m * 64 + (transposed ? n * 8 + major : major * 8 + n);
        };
        EXPECT_EQ(out.data<uint32_t>()[lane * 4 + m], element(minor) | element(minor + 1) << 16);
      }
    }
  }
}

SEPIA_KERNEL(32, 1) Exchange(uint32_t* out) {
  const auto lane = static_cast<uint32_t>(ThreadIndex());
  StoreGlobal(out + lane, ShuffleXor(lane * 10, 5));
  StoreGlobal(out + 32 + lane, Shuffle(lane * 10, static_cast<int>(31 - lane)));
  StoreGlobal(out + 64 + lane, Ballot(lane % 3 == 0));
}

TEST_F(EmulationTest, ShufflesAndBallots) {
  const DeviceMemory out(96 * 4);
  ASSERT_EQ(Run(&Exchange, out.data<uint32_t>()), "");
  for (uint32_t lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(out.data<uint32_t>()[lane], (lane ^ 5) * 10);
    EXPECT_EQ(out.data<uint32_t>()[32 + lane], (31 - lane) * 10);
    EXPECT_EQ(out.data<uint32_t>()[64 + lane], 0x49249249u);  // bits 0, 3, 6, ... 30
  }
}

// What a kernel does wrong is chosen by number: each is one bug of its own.
struct FaultyArgs {
  int bug;
  float* global;  // 64 floats
};

SEPIA_KERNEL(64, 1) Faulty(FaultyArgs args) {
  auto* shared = reinterpret_cast<float*>(SharedMemory());
  const int thread = ThreadIndex();
  uint32_t r[4];
  switch (args.bug) {
    case 0:  // no barrier between write and read
      StoreShared(shared + thread, 1.0f);
      LoadShared(shared + (thread + 1) % 64);
      break;
    case 1:  // no barrier between read and overwrite
      StoreShared(shared + thread, 1.0f);
      SyncThreads();
      LoadShared(shared + (thread + 1) % 64);
      StoreShared(shared + thread, 2.0f);
      break;
    case 2:  // no wait
      if (thread < 16) AsyncCopy16(shared + thread * 4, args.global + thread * 4, true);
      AsyncCommit();
      SyncThreads();
      LoadShared(shared + thread);
      break;
    case 3:  // wait that leaves the newest group out
      if (thread < 16) AsyncCopy16(shared + thread * 4, args.global + thread * 4, true);
      AsyncCommit();
      AsyncWait<1>();
      SyncThreads();
      LoadShared(shared + thread);
      break;
    case 4: AsyncCopy16(shared + thread + 1, args.global, false); break;
    case 5: LoadMatrices(r, shared + 1); break;
    case 6: LoadGlobal(args.global + thread + 1); break;
    case 7: LoadShared(shared + thread); break;
    case 8:
      if (thread < 40) SyncThreads();
      break;
    case 9:
      if (thread < 40) {
        SyncThreads();
      } else {
        SyncThreads();
      }
      break;
    case 10:
      if (thread % 32 < 16) ShuffleXor(1.0f, 1);
      break;
    case 11:
      if (thread % 32 < 16) {
        ShuffleXor(1.0f, 1);
      } else {
        Ballot(true);
      }
      break;
    case 12: StoreShared(shared + 200 + thread, 0.0f); break;
    case 13: StoreGlobal(reinterpret_cast<Float4*>(args.global + 1), Float4{}); break;
    default: break;
  }
}

TEST_F(EmulationTest, EveryFaultIsFoundUnderEverySeed) {
  const std::vector<std::string> expected = {
      // The order of the threads decides which of two accesses is the second.
      "(nobody has written|another thread wrote since the last barrier)",
      "another thread (wrote|read) since the last barrier",
      "reads what an asynchronous copy is still writing",
      "reads what an asynchronous copy is still writing",
      "16 bytes at a misaligned shared address",
      "16 bytes at a misaligned shared address",
      "read outside every allocation",
      "reads shared memory that nobody has written",
      "is stuck: 24 of 64 threads have ended; thread",
      "divergent barrier",
      "is stuck",
      "divergent warp",
      "write outside the shared memory of the launch",
      "16 bytes at a misaligned global address",
      "",
  };
  const DeviceMemory global(64 * 4);
  for (int bug = 0; bug < static_cast<int>(expected.size()); ++bug) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      MutableOptions() = {.seed = seed, .async_copies = static_cast<AsyncCopies>(seed % 3)};
      const std::string message = Run(&Faulty, FaultyArgs{bug, global.data<float>()}, 64);
      const std::string& part = expected[static_cast<size_t>(bug)];
      if (part.empty()) {
        EXPECT_EQ(message, "");
      } else {
        EXPECT_THAT(message, ContainsRegex(part)) << "bug " << bug;
        EXPECT_THAT(message, HasSubstr("emulation_test.cc:"));
      }
    }
  }
}

TEST_F(EmulationTest, RefusesPartsOfWarpsAndTooMuchSharedMemory) {
  EXPECT_THAT(Run(&Exchange, static_cast<uint32_t*>(nullptr), 48), HasSubstr("48 threads"));
  EXPECT_THROW(Run(&Exchange, static_cast<uint32_t*>(nullptr), 32, 170000), DeviceError);
}

struct CountedArgs {
  int stride;  // of shared memory, in floats; of global memory, in bytes / 4
  float* global;
};

SEPIA_KERNEL(32, 1) Counted(CountedArgs args) {
  auto* shared = reinterpret_cast<float*>(SharedMemory());
  const float value = LoadGlobal(args.global + ThreadIndex() * args.stride);
  StoreShared(shared + ThreadIndex() * args.stride, value);
}

// Stride 1: one wavefront, 4 sectors. Stride 2: two banks apart, 16 lanes a wavefront, 8 sectors.
// Stride 32: all lanes on one bank, a sector each. Stride 33: conflict-free.
TEST_F(EmulationTest, CountsBankConflictsAndSectors) {
  MutableOptions().count_memory = true;
  const DeviceMemory global(32 * 33 * 4);
  const std::vector<std::vector<int64_t>> expected = {
      {1, 1, 4}, {2, 2, 8}, {32, 32, 32}, {33, 1, 32}};
  for (const auto& e : expected) {
    emulation::ResetCounters();
    const CountedArgs args = {static_cast<int>(e[0]), global.data<float>()};
    ASSERT_EQ(Run(&Counted, args, 32, 32 * 33 * 4), "");
    const emulation::Counters& counters = AllCounters()["test"];
    EXPECT_EQ(counters.shared_wavefronts, e[1]) << e[0];
    EXPECT_EQ(counters.shared_wavefronts_ideal, 1);
    EXPECT_EQ(counters.global_sectors, e[2]) << e[0];
    EXPECT_EQ(counters.global_sectors_ideal, 4);
  }
}

SEPIA_KERNEL(128, 1) Order(int* order) {
  static int next = 0;
  if (ThreadIndex() == 0 && BlockIndexX() == 0) StoreGlobal(order + 128, 0);
  StoreGlobal(order + ThreadIndex(), next++ % 128);
}

TEST_F(EmulationTest, SeedsGiveDifferentOrdersAndEachTheSame) {
  std::vector<std::vector<int>> orders;
  for (const uint64_t seed : {1, 2, 1}) {
    MutableOptions().seed = seed;
    const DeviceMemory order(129 * 4);
    ASSERT_EQ(Run(&Order, order.data<int>(), 128), "");
    orders.emplace_back(order.data<int>(), order.data<int>() + 128);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_EQ(orders[0], orders[2]);
}

}  // namespace
}  // namespace sepia::kernels::cuda
