#include "checkpoint/export/hf_folder.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/export/hf_config.h"
#include "checkpoint/export/new_directory.h"
#include "checkpoint/export/sepllm_keys.h"
#include "checkpoint/export/value_stream.h"
#include "checkpoint/export/verification.h"
#include "checkpoint/import/hf_folder.h"
#include "checkpoint/import/hf_layout.h"
#include "checkpoint/safetensors.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

using ShardPlan = std::vector<std::vector<SafetensorsSpec>>;

int64_t BytesOf(const SafetensorsSpec& spec) {
  return spec.shape.num_elements() * DTypeSize(spec.dtype);
}

// The authors' class calls its trunk sepllm_gpt_neox; the head has no prefix in either.
std::string StoredName(const std::string& name, HfFlavor flavor) {
  const bool renames = flavor == HfFlavor::kSepllmGptNeox && name.starts_with(kHfPrefix);
  return renames ? "sepllm_" + name : name;
}
std::string SourceName(const std::string& stored, HfFlavor flavor) {
  const bool renamed = flavor == HfFlavor::kSepllmGptNeox && stored.starts_with("sepllm_");
  return renamed ? stored.substr(std::strlen("sepllm_")) : stored;
}

// Fills shards in order of name; a tensor larger than the limit gets a shard of its own.
ShardPlan PlanShards(const ModelSource& source, const HfExportOptions& options) {
  ShardPlan shards(1);
  int64_t bytes = 0;
  for (const SourceTensor& tensor : source.tensors()) {
    const SafetensorsSpec spec{StoredName(tensor.name, options.flavor), options.dtype,
                               tensor.shape};
    if (!shards.back().empty() && bytes + BytesOf(spec) > options.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(spec);
    bytes += BytesOf(spec);
  }
  return shards;
}

std::string ShardName(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

void WriteShards(const ModelSource& source, const ShardPlan& shards, const std::string& folder,
                 const HfExportOptions& options) {
  const DType dtype = options.dtype;
  for (size_t i = 0; i < shards.size(); ++i) {
    SafetensorsWriter writer(folder + "/" + ShardName(i, shards.size()), shards[i]);
    for (size_t t = 0; t < writer.specs().size(); ++t) {
      ForEachBlock(source, source.Get(SourceName(writer.specs()[t].name, options.flavor)),
                   Role::kMaster, dtype, [&](const ValueBlock& block) {
                     writer.Write(t, block.begin * DTypeSize(dtype), block.bytes);
                   });
    }
    writer.Commit();
  }
}

void WriteIndex(const ShardPlan& shards, const std::string& folder) {
  nlohmann::json index;
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const SafetensorsSpec& spec : shards[i]) {
      index["weight_map"][spec.name] = ShardName(i, shards.size());
      total += BytesOf(spec);
    }
  }
  index["metadata"]["total_size"] = total;
  WriteFileAtomic(folder + "/model.safetensors.index.json", index.dump(2) + "\n");
}

void WriteConfigs(const config::ModelConfig& config, const std::string& folder,
                  const HfExportOptions& options) {
  WriteFileAtomic(folder + "/config.json", MakeHfConfig(config, options.dtype, options.flavor));
  WriteFileAtomic(folder + "/generation_config.json",
                  "{\n  \"_from_model_config\": true,\n  \"bos_token_id\": 0,\n"
                  "  \"eos_token_id\": 0\n}\n");
}

void WarnAboutDifferences(const config::ModelConfig& config, HfFlavor flavor) {
  if (!HasSparseAttention(config) || flavor == HfFlavor::kSepllmGptNeox) return;
  LogWarn(
      "this model has {} attention; transformers, vLLM and others that read this folder compute "
      "full attention, and their results will differ. config.json keeps the settings under "
      "\"sepllm\" for Sepia.",
      config::AttentionConfig::Kind_Name(config.attention().kind()));
}

// Other spellings of the same attention come back: full_layers for a list of windows.
void CheckSameSepllmKeys(const config::ModelConfig& config, const ModelSource& written) {
  config::ModelConfig found;
  written.FillModelConfig(&found);
  CHECK(MakeSepllmKeys(config) == MakeSepllmKeys(found), "config.json lost something:\n{}\n{}",
        MakeSepllmKeys(config), MakeSepllmKeys(found));
}

}  // namespace

void ExportHfFolder(const ModelSource& source, const std::string& folder,
                    const HfExportOptions& options) {
  config::ModelConfig config;
  source.FillModelConfig(&config);
  WarnAboutDifferences(config, options.flavor);
  NewDirectory directory(folder);
  const ShardPlan shards = PlanShards(source, options);
  WriteShards(source, shards, directory.path(), options);
  if (shards.size() > 1) WriteIndex(shards, directory.path());
  WriteConfigs(config, directory.path(), options);
  const std::vector<std::string> tokenizer = TokenizerFiles(source);
  for (const std::string& file : tokenizer) {
    WriteFileAtomic(directory.path() + "/" + std::filesystem::path(file).filename().string(),
                    ReadFile(file));
  }
  if (tokenizer.empty()) {
    LogWarn("the source has no tokenizer.json; put the tokenizer's files into {} yourself", folder);
  }
  const auto written = OpenHfFolder(directory.path());
  if (options.flavor == HfFlavor::kGptNeox) {
    CheckSameModel(source, *written);
  } else {
    CheckSameSepllmKeys(config, *written);
  }
  VerifyTensors(source, *written, directory.path(),
                [&](const SourceTensor&) { return options.dtype; });
  directory.Commit();
}

}  // namespace sepia::checkpoint
