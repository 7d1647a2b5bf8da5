#include "trainer/tensorboard.h"

#include <filesystem>
#include <string>
#include <string_view>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace sepia::trainer {
namespace {

std::string Hex(std::string_view bytes) {
  std::string hex;
  for (const char c : bytes) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return hex;
}

// Written by protobuf 3.21 and read back by TensorBoard's own record reader.
constexpr std::string_view kVersion =
    "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d";
constexpr std::string_view kScalar =
    "200000000000000029eda9500900004040fc54d94110012a130a110a0a747261696e2f6c6f7373"
    "1533332d417c59b7eb";

TEST(TensorBoardTest, GoldenBytes) {
  EXPECT_EQ(Hex(TensorBoardVersionRecord(1700000000.0)), kVersion);
  EXPECT_EQ(Hex(TensorBoardScalarRecord(1700000001.0, 1, "train/loss", 10.825f)), kScalar);
}

TEST(TensorBoardTest, EveryStartOpensAFileThatBeginsWithTheVersion) {
  const testing::TempDir dir;
  {
    EventFile file(dir.path());
    file.AddScalar(1, "train/loss", 10.825);
    file.AddText(1, "samples/0", "Once upon a time");
  }
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    EXPECT_EQ(entry.path().filename().string().rfind("events.out.tfevents.", 0), 0u);
    const std::string bytes = ReadFile(entry.path().string());
    // Length and checksum of the first record do not depend on the time.
    EXPECT_EQ(Hex(bytes).substr(0, 24), kVersion.substr(0, 24));
    EXPECT_NE(bytes.find("Once upon a time"), std::string::npos);
    ++files;
  }
  EXPECT_EQ(files, 1);
}

}  // namespace
}  // namespace sepia::trainer
