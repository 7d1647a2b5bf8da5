#include "trainer/run_directory.h"

#include <unistd.h>

#include <memory>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace sepia::trainer {
namespace {

TEST(RunDirectoryTest, RefusesASecondRunAndNamesTheFirst) {
  const testing::TempDir dir;
  const std::string path = dir.File("runs/a");
  auto first = std::make_unique<RunDirectory>(path);
  for (int attempt = 0; attempt < 2; ++attempt) {
    try {
      RunDirectory second(path);
      FAIL() << "two runs in one directory";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(fmt::format("process {}", getpid())),
                std::string::npos)
          << error.what();
    }
  }
  first.reset();
  EXPECT_NO_THROW(RunDirectory again(path));
}

}  // namespace
}  // namespace sepia::trainer
