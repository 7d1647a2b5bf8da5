// `device: CUDA` through the real program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "tests/e2e/sepia_process.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;

ProcessResult ProbeOnDevice(const std::string& out, const std::string& precision) {
  const std::string model = GoldenPath("model");
  return RunSepia({"probe", "--model", model, "--tokens", model + "/sep_n8_H.safetensors", "--out",
                   out, "--set", "model.attention.kind=SEP", "--set", "model.attention.window=8",
                   "--set", "model.attention.full_layers=[0]", "--set", "device=CUDA", "--set",
                   "kernels.allow_fallback=false", "--set", "precision=" + precision});
}

TEST(DeviceCli, ProbeSaysWhichKernelsRan) {
  const TempDir dir;
  const ProcessResult result = ProbeOnDevice(dir.File("out"), "BF16");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("emulated on host fibers"));
  EXPECT_THAT(result.output, HasSubstr("mma.sync bf16 D=16 in 32"));
  const checkpoint::SafetensorsFile ours(dir.File("out"));
  const checkpoint::SafetensorsFile reference(GoldenPath("model") + "/sep_n8_H.safetensors");
  for (const checkpoint::SafetensorsEntry& entry : reference.entries()) {
    if (entry.name.starts_with("grad.")) {
      EXPECT_EQ(ours.Get(entry.name).shape, entry.shape);
    }
  }
}

TEST(DeviceCli, FallbacksAreErrorsWhereTheConfigSaysSo) {
  const TempDir dir;
  const ProcessResult result = ProbeOnDevice(dir.File("out"), "FP32");
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.output, HasSubstr("kernels.allow_fallback is false"));
}

TEST(DeviceCli, DoctorNamesTheDevice) {
  const ProcessResult result = RunSepia({"doctor", "--quick", "--device", "CUDA"});
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("emulated on host fibers"));
}

TEST(DeviceCli, GenerationNeedsTheHost) {
  const ProcessResult result = RunSepia(
      {"generate", "--model", GoldenPath("model"), "--prompt", "a", "--set", "device=CUDA"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.output, HasSubstr("device=CPU"));
}

}  // namespace
}  // namespace sepia::testing
