// The thin device API, on the emulated device.
#include "kernels/cuda/device.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace sepia::kernels::cuda
