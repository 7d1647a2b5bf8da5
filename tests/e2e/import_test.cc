// Models of other people's software through the program: logits of every import path against
// Hugging Face's, and training that goes on from a GPT-NeoX checkpoint.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/reader.h"
#include "checkpoint/safetensors.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::testing {
namespace {

using checkpoint::SafetensorsFile;
namespace fs = std::filesystem;

std::vector<float> Logits(const std::string& path) {
  const SafetensorsFile file(path);
  std::vector<float> values(static_cast<size_t>(file.Get("logits").shape.num_elements()));
  file.ReadFloats(file.Get("logits"), values);
  return values;
}

// The bound of fixtures/checkpoints/README.md: 2e-5, absolute.
void ExpectLogits(const std::string& model, const std::string& reference, const TempDir& dir,
                  const std::string& set = "") {
  SCOPED_TRACE(model);
  std::vector<std::string> words = {"probe", "--model",         model,   "--tokens",      reference,
                                    "--out", dir.File("probe"), "--set", "precision=FP32"};
  if (!set.empty()) words.insert(words.end(), {"--set", set});
  const ProcessResult result = RunSepia(words);
  ASSERT_EQ(result.code, 0) << result.output;
  const std::vector<float> ours = Logits(dir.File("probe"));
  const std::vector<float> wanted = Logits(reference);
  ASSERT_EQ(ours.size(), wanted.size());
  for (size_t i = 0; i < ours.size(); ++i) ASSERT_NEAR(ours[i], wanted[i], 2e-5);
}

TEST(ImportTest, LogitsAreThoseOfHuggingFace) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/checkpoints");
  const TempDir dir;
  const std::string safetensors = root + "/hf_safetensors/";
  for (const std::string model : {"a", "t"}) {
    for (const char* form : {"/fp32", "/fp32_sharded"}) {
      ExpectLogits(safetensors + model + form, safetensors + model + "/logits_fp32.safetensors",
                   dir);
    }
    // The published layout holds the same weights, rounded to fp16.
    const std::string half = safetensors + model + "/logits_fp16_weights.safetensors";
    ExpectLogits(root + "/hf_legacy_bin/" + model + "/published", half, dir);
    ExpectLogits(root + "/hf_legacy_bin/" + model + "/published_sharded", half, dir);
  }
  // Files of others do not say which GELU; llama.cpp's own is the tanh form.
  ExpectLogits(root + "/gguf/t-f32.gguf", safetensors + "t/logits_fp32.safetensors", dir,
               "model.activation=ERF_GELU");
}

// Copies a checkpoint without its optimizer, so that the layer files are what is read.
std::string LayerFilesOnly(const std::string& folder, const TempDir& dir) {
  std::string copy = dir.File(fs::path(folder).filename());
  fs::copy(folder, copy, fs::copy_options::recursive);
  for (const auto& entry : fs::recursive_directory_iterator(copy)) {
    fs::permissions(entry, fs::perms::owner_all);
  }
  std::vector<fs::path> optimizers;
  for (const auto& entry : fs::recursive_directory_iterator(copy)) {
    if (entry.path().string().find("_optim_states") != std::string::npos) {
      optimizers.push_back(entry.path());
    }
  }
  for (const fs::path& path : optimizers) fs::remove(path);
  return copy;
}

TEST(ImportTest, LogitsOfNeoxCheckpointsAreThoseOfHuggingFace) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/checkpoints/neox");
  const TempDir dir;
  for (const std::string name :
       {"old_tp1_dp1", "old_tp2_dp2", "old_tp4_dp1", "old_tp2_dp1_sequential_residual",
        "new_tp4_dp2_linear1", "new_tp2_dp2_bf16"}) {
    const std::string folder = LayerFilesOnly(root + "/" + name, dir);
    ExpectLogits(folder, root + "/expected/logits_" + name + ".safetensors", dir);
    const ProcessResult converted = RunSepia({"convert", folder, folder + "-hf", "--to", "hf"});
    ASSERT_EQ(converted.code, 0) << converted.output;
    ExpectLogits(folder + "-hf", root + "/expected/logits_" + name + ".safetensors", dir);
  }
}

// The same expected files under the other names of their cases say nothing new; see
// neox_import_test.
TEST(ImportTest, TensorsOfANeoxCheckpointAreTheExpectedFile) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/checkpoints/neox");
  const TempDir dir;
  const ProcessResult result = RunSepia(
      {"convert", root + "/old_tp2_dp2", dir.File("state.safetensors"), "--to", "tensors"});
  ASSERT_EQ(result.code, 0) << result.output;
  const SafetensorsFile ours(dir.File("state.safetensors"));
  const SafetensorsFile expected(root + "/expected/full_old_tp2_dp2.safetensors");
  ASSERT_EQ(ours.entries().size(), expected.entries().size());
  for (const auto& entry : expected.entries()) {
    EXPECT_TRUE(std::ranges::equal(ours.Get(entry.name).bytes, entry.bytes)) << entry.name;
  }
  EXPECT_EQ(ours.metadata().at("step"), "4");
}

TEST(ImportTest, TrainingGoesOnFromANeoxCheckpoint) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/checkpoints/neox");
  const TinyRun run;  // for its data
  const auto train = [&](const std::string& source, const std::string& name, bool weights_only) {
    const std::string config = run.File(name + ".textproto");
    std::ofstream(config) << fmt::format(
        "init_from {{ path: \"{0}\" weights_only: {2} }}\n"
        "data {{ train {{ prefix: \"{1}\" }} valid {{ prefix: \"{1}\" }} sequence_length: 32 }}\n"
        "batch {{ global: 4 micro: 2 }} precision: FP16 threads: 2\n"
        "optimizer {{ lr: 1e-3 min_lr: 1e-4 }} schedule {{ decay_steps: 1000 total_steps: 6 }}\n"
        "checkpoint {{ every_steps: 6 }} eval {{ every_steps: 0 }}\n",
        source, run.File("data"), weights_only);
    return RunSepia({"train", config, "--run-dir", run.RunDir(name)});
  };
  const std::string neox = root + "/old_tp1_dp2_intervals";
  ProcessResult result = train(neox, "whole", false);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_NE(result.output.find("does not say which data"), std::string::npos) << result.output;
  const checkpoint::CheckpointReader end(run.Checkpoint("whole", 6));
  // 4 steps there, 1 of them skipped, and 2 here; 32 samples there and 2 x 4 here.
  EXPECT_EQ(end.train_state()->applied_steps, 5);
  EXPECT_EQ(end.train_state()->skipped_steps, 1);
  EXPECT_EQ(end.train_state()->consumed_samples, 40);
  EXPECT_EQ(end.train_state()->loss_scaler.scale, 4096);
  EXPECT_EQ(ComparableMetrics(run.Metrics("whole")).size(), 2u);
  // The same by way of our own format.
  result = RunSepia({"convert", neox, run.File("sepia"), "--to", "sepia"});
  ASSERT_EQ(result.code, 0) << result.output;
  result = train(run.File("sepia"), "by_sepia", false);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_EQ(ComparableMetrics(run.Metrics("by_sepia")), ComparableMetrics(run.Metrics("whole")));
  EXPECT_TRUE(
      CompareCheckpoints(run.Checkpoint("whole", 6), run.Checkpoint("by_sepia", 6)).empty());
  // Weights alone: a new run.
  result = train(neox, "weights", true);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_EQ(ComparableMetrics(run.Metrics("weights")).size(), 6u);
}

TEST(ImportTest, ExportsForOthersWork) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/checkpoints/hf_safetensors");
  const TempDir dir;
  for (const std::string format : {"gguf", "neox", "sepllm-hf"}) {
    ProcessResult result =
        RunSepia({"convert", root + "/t/fp32", dir.File(format), "--to", format});
    ASSERT_EQ(result.code, 0) << result.output;
    ExpectLogits(dir.File(format), root + "/t/logits_fp32.safetensors", dir);
    result = RunSepia({"checkpoint", "diff", root + "/t/fp32", dir.File(format)});
    EXPECT_EQ(result.code, 0) << result.output;
    result = RunSepia({"checkpoint", "verify", dir.File(format), "--deep", "--json"});
    EXPECT_EQ(result.code, 0) << result.output;
    result = RunSepia({"checkpoint", "inspect", dir.File(format), "--json"});
    EXPECT_EQ(result.code, 0) << result.output;
  }
}

// A config of the published form (EleutherAI/pythia models/160M/pythia-160m.yml), in two files.
TEST(ImportTest, NeoxConfigsBecomeOurs) {
  const TempDir dir;
  std::ofstream(dir.File("model.yml")) << R"({
  "pipe-parallel-size": 1, "model-parallel-size": 1,
  "num-layers": 12, "hidden-size": 768, "num-attention-heads": 12, "seq-length": 2048,
  "max-position-embeddings": 2048, "pos-emb": "rotary", "rotary-pct": 0.25,
  "no-weight-tying": true, "gpt-j-residual": true, "output-layer-parallelism": "column",
  "attention-config": [[["flash"], 12]], "bias-gelu-fusion": true,
  "init_method": "small_init", "output_layer_init_method": "wang_init",
})";
  std::ofstream(dir.File("run.yml")) << R"({
  "optimizer": {"type": "Adam", "params": {"lr": 0.0006, "betas": [0.9, 0.95], "eps": 1.0e-8}},
  "min_lr": 0.00006, "zero_optimization": {"stage": 1, "overlap_comm": true},
  "train_micro_batch_size_per_gpu": 32, "gas": 1, # trained on 32 gpus
  "gradient_clipping": 1.0, "weight-decay": 0.1, "hidden-dropout": 0,
  "fp16": {"fp16": true, "enabled": true, "loss_scale": 0, "loss_scale_window": 1000,
           "initial_scale_power": 12, "hysteresis": 2, "min_loss_scale": 1},
  "train-iters": 143000, "lr-decay-iters": 143000, "lr-decay-style": "cosine", "warmup": 0.01,
  "checkpoint-factor": 1000, "eval-interval": 40000, "eval-iters": 10, "log-interval": 10,
  "train-data-paths": ["pile/text_document"], "valid-data-paths": ["pile/text_document"],
  "separator_token_ids": [15, 13], "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True,
  "prefill_loc_win_size_list": [2048, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64],
})";
  const std::vector<std::string> words = {"convert-config", dir.File("model.yml"),
                                          dir.File("run.yml"), "--gpus", "32"};
  ProcessResult result = RunSepia(words);
  ASSERT_EQ(result.code, 0) << result.output;
  for (const char* line :
       {"vocab_size: 50304", "hidden_size: 768", "kind: SEP", "window: 64", "full_layers: 0",
        "global: 1024", "micro: 32", "lr: 0.0006", "beta2: 0.95", "warmup_fraction: 0.01",
        "total_steps: 143000", "precision: FP16", "zero_stage: 1", "numerics: NEOX_2",
        "initial_scale_power: 12", "# not needed: attention_config"}) {
    EXPECT_NE(result.output.find(line), std::string::npos) << line << "\n" << result.output;
  }
  WriteFileAtomic(dir.File("run.textproto"), result.output);
  result = RunSepia({"explain-config", dir.File("run.textproto")});
  EXPECT_EQ(result.code, 0) << result.output;
  // Without the number of GPUs the global batch is unknown; all faults come at once.
  std::ofstream(dir.File("more.yml")) << "{\"moe_num_experts\": 8}";
  result = RunSepia(
      {"convert-config", dir.File("model.yml"), dir.File("run.yml"), dir.File("more.yml")});
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_NE(result.output.find("--gpus"), std::string::npos);
  EXPECT_NE(result.output.find("moe_num_experts is unknown"), std::string::npos);
}

}  // namespace
}  // namespace sepia::testing
