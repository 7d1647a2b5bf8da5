// The thin device API, on the emulated device.
#include "kernels/cuda/device.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/emulation/streams.h"
#include "kernels/cuda/upload_ring.h"

namespace sepia::kernels::cuda {
namespace {

using ::testing::HasSubstr;

template <typename Fn>
std::string MessageOf(const Fn& fn) {
  try {
    fn();
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "";
}

TEST(DeviceTest, CopiesRoundTrip) {
  Stream stream;
  const std::vector<int> from = {1, 2, 3, 4};
  std::vector<int> to(4);
  const DeviceMemory a(16), b(16);
  CopyToDevice(stream, a.data<int>(), from.data(), 16);
  CopyOnDevice(stream, b.data<int>(), a.data<int>(), 16);
  SetBytes(stream, b.data<int>() + 1, 0, 4);
  CopyToHost(stream, to.data(), b.data<int>(), 16);
  stream.Synchronize();
  EXPECT_EQ(to, (std::vector<int>{1, 0, 3, 4}));
}

TEST(DeviceTest, NewMemoryIsPoisoned) {
  const DeviceMemory memory(8);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data<float>()) % 256, 0u);
  EXPECT_TRUE(std::isnan(memory.data<float>()[1]));
}

TEST(DeviceTest, RefusesCopiesOutsideDeviceMemoryAndSaysWhere) {
  Stream stream;
  const DeviceMemory memory(16);
  std::vector<char> host(32);
  const std::string beyond =
      MessageOf([&] { CopyToDevice(stream, memory.data<char>(), host.data(), 17); });
  EXPECT_THAT(beyond, HasSubstr("device_test.cc:"));
  EXPECT_THAT(beyond, HasSubstr("not inside one device allocation"));
  EXPECT_NE(MessageOf([&] { CopyToHost(stream, host.data(), host.data(), 4); }), "");
  EXPECT_NE(MessageOf([&] { SetBytes(stream, memory.data<char>() + 8, 0, 9); }), "");
  EXPECT_NE(MessageOf([&] { UseDevice(1); }), "");
}

TEST(DeviceTest, MovedMemoryIsFreedOnce) {
  DeviceMemory a(16);
  void* const data = a.data<void>();
  DeviceMemory b(std::move(a));
  EXPECT_EQ(b.data<void>(), data);
  DeviceMemory c;
  c = std::move(b);
  EXPECT_EQ(c.data<void>(), data);
  EXPECT_EQ(c.size(), 16u);
}

TEST(DeviceTest, EventsMeasureTime) {
  Stream stream;
  Event begin, end, never;
  begin.Record(stream);
  end.Record(stream);
  EXPECT_GE(end.MillisecondsSince(begin), 0.0f);
  EXPECT_NE(MessageOf([&] { end.MillisecondsSince(never); }), "");
}

// A late stream runs when somebody waits for it, and then as far as was asked for.
TEST(DeviceTest, LateStreamsPutWorkOff) {
  Stream now;
  const emulation::LateStreams late;
  Stream stream;
  const DeviceMemory from(8), to(8);
  const auto value = [&](const DeviceMemory& memory) {
    uint64_t bits = 0;
    CopyToHost(now, &bits, memory.data<void>(), 8);
    return bits;
  };
  uint64_t host = 1;
  CopyToDevice(now, to.data<void>(), &host, 8);
  host = 2;
  CopyToDevice(stream, from.data<void>(), &host, 8);
  host = 3;  // the copy has read it already
  CopyOnDevice(stream, to.data<void>(), from.data<void>(), 8);
  Event copied;
  copied.Record(stream);
  SetBytes(stream, to.data<void>(), 0, 8);
  EXPECT_EQ(value(to), 1u);
  EXPECT_FALSE(copied.IsDone());
  copied.MakeWait(now);
  EXPECT_TRUE(copied.IsDone());
  EXPECT_EQ(value(to), 2u);
  stream.Synchronize();
  EXPECT_EQ(value(to), 0u);
}

TEST(DeviceTest, LateStreamsWaitForEachOther) {
  Stream now;
  const emulation::LateStreams late;
  Stream first, second;
  const DeviceMemory memory(4);
  Event filled, again;
  SetBytes(first, memory.data<void>(), 1, 4);
  filled.Record(first);
  filled.MakeWait(second);
  SetBytes(second, memory.data<void>(), 2, 4);
  again.Record(second);
  EXPECT_FALSE(again.IsDone());
  again.MakeWait(now);
  EXPECT_TRUE(filled.IsDone());
  EXPECT_EQ(memory.data<uint8_t>()[3], 2);
}

// Pinned memory is read when the copy takes place: a slot that is filled again too early shows.
TEST(DeviceTest, UploadsSurviveReuseOfTheRing) {
  const emulation::LateStreams late;
  Stream stream;
  UploadRing ring(/*slot_bytes=*/64, /*num_slots=*/3);
  std::vector<uint8_t> from(1000), to(1000);
  const DeviceMemory memory(from.size());
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>(i * 7 + i / 64);
  const std::vector<uint8_t> expected = from;
  ring.Copy(stream, memory.data<void>(), from.data(), 500);
  ring.Copy(stream, memory.data<uint8_t>() + 500, from.data() + 500, 500);
  from.assign(from.size(), 0);
  CopyToHost(stream, to.data(), memory.data<void>(), to.size());
  stream.Synchronize();
  EXPECT_EQ(to, expected);
}

}  // namespace
}  // namespace sepia::kernels::cuda
