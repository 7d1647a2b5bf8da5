// The kernels of a generation step on the emulated device: order of threads, memory traffic.
// tests/kernels/cached_attention_test.cc compares them with the double oracle.
#include "kernels/cuda/cached_attention.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/scratch.h"
#include "tests/kernels/op_test.h"

namespace sepia::kernels::cuda {
namespace {

using emulation::AllCounters;
using emulation::Counters;
using emulation::MutableOptions;
using kernels::testing::RandomTensor;

class CudaCachedAttentionTest : public ::testing::Test {
 protected:
  ~CudaCachedAttentionTest() override {
    MutableOptions() = {};
    emulation::ResetCounters();
  }
};

struct Step {
  int64_t length = 300, num_heads = 2, head_dim = 64, window = 1000;
  DType dtype = DType::kBFloat16;
  std::vector<int32_t> far = {};  // packed keys
};

DeviceMemory Upload(Stream& stream, const void* from, size_t num_bytes) {
  DeviceMemory memory(num_bytes);
  CopyToDevice(stream, memory.data<void>(), from, num_bytes);
  return memory;
}

DeviceMemory RandomMemory(Stream& stream, DType dtype, const Shape& shape, uint64_t seed) {
  const OwnedTensor values = RandomTensor(dtype, shape, seed);
  return Upload(stream, values.view().raw(), static_cast<size_t>(values.view().num_bytes()));
}

// The last token of a step's sequence; its result.
std::vector<uint8_t> Attend(const Step& s) {
  Stream stream;
  std::vector<int32_t> count(static_cast<size_t>(s.length));
  for (const int32_t position : s.far) {
    for (size_t i = static_cast<size_t>(position); i < count.size(); ++i) ++count[i];
  }
  const int64_t num_keys = std::min(s.window, s.length) + static_cast<int64_t>(s.far.size());
  const int64_t splits = CacheSplits(s.num_heads, num_keys);
  const DeviceMemory qkv = RandomMemory(stream, s.dtype, {s.num_heads, 3, s.head_dim}, 1),
                     keys = RandomMemory(stream, s.dtype, {s.length, s.num_heads, s.head_dim}, 2),
                     values = RandomMemory(stream, s.dtype, {s.length, s.num_heads, s.head_dim}, 3),
                     positions = Upload(stream, s.far.data(), s.far.size() * sizeof(int32_t)),
                     counts = Upload(stream, count.data(), count.size() * sizeof(int32_t)),
                     sums(static_cast<size_t>(s.num_heads * splits * s.head_dim) * sizeof(float)),
                     stats(static_cast<size_t>(s.num_heads * splits * 2) * sizeof(float));
  std::vector<uint8_t> out(static_cast<size_t>(s.num_heads * s.head_dim * DTypeSize(s.dtype)));
  const DeviceMemory device_out(out.size());
  const CachedAttentionParams params = {
      .dtype = s.dtype,
      .num_new = 1,
      .num_heads = static_cast<int32_t>(s.num_heads),
      .head_dim = static_cast<int32_t>(s.head_dim),
      .begin = static_cast<int32_t>(s.length - 1),
      .window = s.window,
      .qkv = qkv.data<void>(),
      .keys = keys.data<void>(),
      .values = values.data<void>(),
      .positions = s.far.empty() ? nullptr : positions.data<int32_t>(),
      .count = s.far.empty() ? nullptr : counts.data<int32_t>(),
      .out = device_out.data<void>(),
      .num_splits = static_cast<int32_t>(splits),
      .scale = 1.4427f / std::sqrt(static_cast<float>(s.head_dim)),
      .split_sums = sums.data<float>(),
      .split_stats = stats.data<float>()};
  AppendToCache(stream, params);
  CachedAttention(stream, params);
  CopyToHost(stream, out.data(), device_out.data<void>(), out.size());
  stream.Synchronize();
  return out;
}

TEST_F(CudaCachedAttentionTest, SameBitsForEveryOrderOfBlocksAndThreads) {
  for (const DType dtype : kernels::testing::kComputeDTypes) {
    for (const int64_t head_dim : {20, 64, 80, 256}) {
      const Step step = {.head_dim = head_dim, .window = 250, .dtype = dtype, .far = {0, 1, 2, 33}};
      MutableOptions().seed = 0;
      const std::vector<uint8_t> expected = Attend(step);
      for (const uint64_t seed : {1, 2}) {
        MutableOptions().seed = seed;
        EXPECT_EQ(Attend(step), expected) << DTypeName(dtype) << " " << head_dim;
      }
    }
  }
}

int64_t Sectors(const Step& step) {
  emulation::ResetCounters();
  MutableOptions().count_memory = true;
  Attend(step);
  int64_t sectors = 0;
  for (const auto& [kernel, counted] : AllCounters()) sectors += counted.global_sectors;
  return sectors;
}

// Twelve visible keys among 100 or 5000.
TEST_F(CudaCachedAttentionTest, HiddenKeysCostNothing) {
  const auto sectors = [](int64_t length) {
    return Sectors({.length = length, .window = 8, .far = {0, 1, 2, 5}});
  };
  EXPECT_EQ(sectors(5000), sectors(100));
  EXPECT_EQ(sectors(1003), sectors(100));
}

// Keys and values are read once, by whole sectors, whatever the head size. A lane's eight columns
// of fp32 take two instructions that share their sectors.
TEST_F(CudaCachedAttentionTest, ReadsEveryKeyOnceByWholeSectors) {
  for (const int64_t head_dim : {32, 64, 80, 128, 256}) {
    for (const DType dtype : kernels::testing::kComputeDTypes) {
      const Step step = {.length = 500, .head_dim = head_dim, .dtype = dtype};
      const int64_t row_sectors = head_dim / 16 * (dtype == DType::kFloat32 ? 4 : 1);
      const int64_t cache = 2 * step.num_heads * step.length * row_sectors;
      // Queries, once a block; new keys and values; results of splits, written and read.
      const int64_t splits = CacheSplits(step.num_heads, step.length);
      const int64_t split_sectors = head_dim * 4 / 32 + 1;
      const int64_t rest =
          step.num_heads * (splits * (16 * row_sectors + 4 * split_sectors) + 8 * row_sectors);
      const int64_t sectors = Sectors(step);
      EXPECT_GE(sectors, cache);
      EXPECT_LE(sectors, cache + rest) << head_dim << " " << DTypeName(dtype);
    }
  }
}

// A sequence alone: enough blocks for a GPU once its keys give work to them, and no more parts than
// the scratch has room for.
TEST_F(CudaCachedAttentionTest, SplitsFillTheGpu) {
  EXPECT_EQ(CacheSplits(/*num_rows=*/12, /*most_keys=*/1), 1);
  EXPECT_EQ(CacheSplits(12, 128), 1);
  EXPECT_EQ(CacheSplits(12, 129), 2);
  EXPECT_EQ(CacheSplits(12, 2048), 16);
  EXPECT_EQ(CacheSplits(12, 1 << 20), kCacheBlocks / 12);
  EXPECT_EQ(CacheSplits(1000, 1 << 20), 1);
  for (int64_t rows = 1; rows < 1000; ++rows) {
    const int64_t splits = CacheSplits(rows, 1 << 20);
    EXPECT_TRUE(splits == 1 || rows * splits <= kCacheBlocks);
  }
}

}  // namespace
}  // namespace sepia::kernels::cuda
