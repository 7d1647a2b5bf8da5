// `device: CUDA` through the real program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;

ProcessResult ProbeOnDevice(const std::string& out, const std::string& precision,
                            const std::vector<std::string>& more = {}) {
  const std::string model = GoldenPath("model");
  std::vector<std::string> arguments = {"probe",
                                        "--model",
                                        model,
                                        "--tokens",
                                        model + "/sep_n8_H.safetensors",
                                        "--out",
                                        out,
                                        "--set",
                                        "model.attention.kind=SEP",
                                        "--set",
                                        "model.attention.window=8",
                                        "--set",
                                        "model.attention.full_layers=[0]",
                                        "--set",
                                        "device=CUDA",
                                        "--set",
                                        "kernels.allow_fallback=false",
                                        "--set",
                                        "precision=" + precision};
  for (const std::string& setting : more) {
    arguments.insert(arguments.end(), {"--set", setting});
  }
  return RunSepia(arguments);
}

TEST(DeviceCli, ProbeSaysWhichKernelsRan) {
  const TempDir dir;
  const ProcessResult result = ProbeOnDevice(dir.File("out"), "BF16");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("emulated on host fibers"));
  EXPECT_THAT(result.output, HasSubstr("attention by mma.sync bf16 D=16 in 32 in every layer"));
  const checkpoint::SafetensorsFile ours(dir.File("out"));
  const checkpoint::SafetensorsFile reference(GoldenPath("model") + "/sep_n8_H.safetensors");
  for (const checkpoint::SafetensorsEntry& entry : reference.entries()) {
    if (entry.name.starts_with("grad.")) {
      EXPECT_EQ(ours.Get(entry.name).shape, entry.shape);
    }
  }
}

TEST(DeviceCli, CudnnServesFullAttentionWhereTheConfigSaysSo) {
  const TempDir dir;
  const std::string cudnn = "kernels.full_attention=CUDNN";
  const ProcessResult result = ProbeOnDevice(dir.File("out"), "BF16", {cudnn});
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(
      result.output,
      HasSubstr("attention by cuDNN's stand-in on the host SDPA bf16 D=16, deterministic in "
                "layers 0, mma.sync bf16 D=16 in 32 in the others"));
  const ProcessResult fp32 = ProbeOnDevice(dir.File("fp32"), "FP32", {cudnn});
  EXPECT_EQ(fp32.code, 2);
  EXPECT_THAT(fp32.output, HasSubstr("cuDNN's attention takes no FP32"));
  const ProcessResult host = ProbeOnDevice(dir.File("host"), "BF16", {cudnn, "device=CPU"});
  EXPECT_EQ(host.code, 2);
  EXPECT_THAT(host.output, HasSubstr("cuDNN is for device: CUDA"));
}

// Two steps, or one and a resumed second: the same bits.
TEST(DeviceCli, TrainsAndResumes) {
  const TinyRun run;
  const std::vector<std::string> device = {
      "--set", "device=CUDA", "--set", "precision=BF16", "--set", "kernels.allow_fallback=false"};
  const auto train = [&](const std::string& name, const std::string& steps) {
    std::vector<std::string> more = device;
    more.insert(more.end(), {"--steps", steps});
    return RunSepia(run.Train(name, more));
  };
  const ProcessResult whole = train("whole", "2");
  ASSERT_EQ(whole.code, 0) << whole.output;
  EXPECT_THAT(whole.output, HasSubstr("device     emulated on host fibers"));
  EXPECT_THAT(whole.output, HasSubstr("mma.sync bf16"));
  ASSERT_EQ(train("parts", "1").code, 0);
  const ProcessResult second = train("parts", "2");
  ASSERT_EQ(second.code, 0) << second.output;
  EXPECT_THAT(CompareCheckpoints(run.Checkpoint("whole", 2), run.Checkpoint("parts", 2)),
              ::testing::IsEmpty());
  EXPECT_EQ(ComparableMetrics(run.Metrics("whole")), ComparableMetrics(run.Metrics("parts")));
}

// The header block says what runs as a graph; the run is the same.
TEST(DeviceCli, TrainsWithGraphs) {
  const TinyRun run;
  const auto train = [&](const std::string& name, const std::string& graphs) {
    return RunSepia(run.Train(name, {"--set", "device=CUDA", "--set", "precision=BF16", "--steps",
                                     "3", "--set", "kernels.cuda_graphs=" + graphs}));
  };
  ASSERT_EQ(train("without", "false").code, 0);
  const ProcessResult with = train("with", "true");
  ASSERT_EQ(with.code, 0) << with.output;
  EXPECT_THAT(with.output, HasSubstr("graphs     all 2 micro-batches of a step as CUDA graphs"));
  EXPECT_THAT(CompareCheckpoints(run.Checkpoint("without", 3), run.Checkpoint("with", 3)),
              ::testing::IsEmpty());
  EXPECT_EQ(ComparableMetrics(run.Metrics("without")), ComparableMetrics(run.Metrics("with")));

  const std::vector<std::string> on_host = run.Train("host", {"--set", "kernels.cuda_graphs=true"});
  const ProcessResult host = RunSepia(on_host);
  EXPECT_EQ(host.code, 2);
  EXPECT_THAT(host.output, HasSubstr("CUDA graphs are for device: CUDA"));
}

TEST(DeviceCli, FallbacksAreErrorsWhereTheConfigSaysSo) {
  const TempDir dir;
  const ProcessResult result = ProbeOnDevice(dir.File("out"), "FP32");
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.output, HasSubstr("kernels.allow_fallback is false"));
}

TEST(DeviceCli, DoctorNamesTheDevice) {
  for (const char* device : {"CUDA", "CPU"}) {
    const ProcessResult result = RunSepia({"doctor", "--quick", "--device", device});
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("emulated on host fibers"));
  }
}

TEST(DeviceCli, GeneratesTheTextOfTheHost) {
  const auto generate = [](const std::string& device, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"generate",
                                          "--model",
                                          GoldenPath("model"),
                                          "--tokenizer",
                                          GoldenPath("tokenizer") + "/tokenizer.json",
                                          "--prompt",
                                          "one, two. three",
                                          "--max-tokens",
                                          "10",
                                          "--ignore-eod",
                                          "--json",
                                          "--set",
                                          "model.attention.kind=SEP",
                                          "--set",
                                          "model.attention.window=4",
                                          "--set",
                                          "model.attention.full_layers=[0]",
                                          "--set",
                                          "device=" + device};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProcessResult result = RunSepia(arguments);
    EXPECT_EQ(result.code, 0) << result.output;
    const size_t begin = result.output.find("{\"tokens\"");
    if (begin == std::string::npos) return std::string();
    return result.output.substr(begin, result.output.find("\"prompt_tokens\"") - begin);
  };
  for (const char* temperature : {"0", "0.9"}) {
    const std::string expected = generate("CPU", {"--temperature", temperature});
    EXPECT_THAT(expected, HasSubstr("tokens"));
    EXPECT_EQ(generate("CUDA", {"--temperature", temperature}), expected);
  }
  const std::vector<std::string> bf16 = {"--set", "precision=BF16", "--set",
                                         "kernels.allow_fallback=false"};
  EXPECT_EQ(generate("CUDA", bf16), generate("CUDA", bf16));
}

TEST(DeviceCli, GenerationWithoutFallbacksRefusesFp32) {
  const ProcessResult result =
      RunSepia({"generate", "--model", GoldenPath("model"), "--tokenizer",
                GoldenPath("tokenizer") + "/tokenizer.json", "--prompt", "a", "--set",
                "device=CUDA", "--set", "kernels.allow_fallback=false"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.output, HasSubstr("kernels.allow_fallback is false"));
}

// Samples between steps leave no trace in the training.
TEST(DeviceCli, SamplesWhileItTrains) {
  const TinyRun run;
  const auto train = [&](const std::string& name, const std::vector<std::string>& samples) {
    std::vector<std::string> more = {"--steps", "2",
                                     "--set",   "device=CUDA",
                                     "--set",   "precision=BF16",
                                     "--set",   "model.vocab_size=512"};
    more.insert(more.end(), samples.begin(), samples.end());
    const ProcessResult result = RunSepia(run.Train(name, more));
    EXPECT_EQ(result.code, 0) << result.output;
  };
  const std::string tokenizer = GoldenPath("tokenizer") + "/tokenizer.json";
  train("sampled",
        {"--set", "data.tokenizer=" + tokenizer, "--set", "samples.every_steps=1", "--set",
         "samples.prompt=[\"once, upon\", \"\"]", "--set", "samples.max_tokens=8"});
  train("plain", {});
  for (const char* step : {"1", "2"}) {
    const std::string text =
        ReadFile(run.RunDir("sampled") + "/samples/step_0000000" + step + ".txt");
    EXPECT_THAT(text, HasSubstr("once, upon"));
    EXPECT_THAT(text, HasSubstr("--- sample 1"));
  }
  EXPECT_THAT(CompareCheckpoints(run.Checkpoint("sampled", 2), run.Checkpoint("plain", 2)),
              ::testing::IsEmpty());
}

}  // namespace
}  // namespace sepia::testing
