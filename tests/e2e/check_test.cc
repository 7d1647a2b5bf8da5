// What sepia check says about memory.
#include <string>

#include <gtest/gtest.h>

#include "tests/e2e/sepia_process.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {
namespace {

// Sixteen samples a step and 8 GiB: one rank of 160m fits with small micro-batches only.
TEST(MemoryChoicesTest, CheckNamesWhatFits) {
  const ProcessResult result = RunSepia(
      {"check", SourcePath("configs/pythia-160m.textproto"), "--set", "batch.global=16", "--set",
       "batch.micro=16", "--set", "precision=BF16", "--device", "cpu:8GiB", "--peak-gflops", "1"});
  EXPECT_EQ(result.code, 2) << result.output;
  SCOPED_TRACE(result.output);
  const auto contains = [&](const char* text) {
    return result.output.find(text) != std::string::npos;
  };
  EXPECT_TRUE(contains("recompute: false"));
  EXPECT_TRUE(contains("(does not fit)"));
  EXPECT_TRUE(contains("do not fit in 8.00G; batch.micro: "));
}

}  // namespace
}  // namespace sepia::testing
