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
#include "checkpoint/elements.h"
#include "checkpoint/export/hf_config.h"
#include "checkpoint/export/new_directory.h"
#include "checkpoint/export/value_stream.h"
#include "checkpoint/import/hf_folder.h"
#include "checkpoint/safetensors.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

using ShardPlan = std::vector<std::vector<SafetensorsSpec>>;

int64_t BytesOf(const SafetensorsSpec& spec) {
  return spec.shape.num_elements() * DTypeSize(spec.dtype);
}

// Fills shards in order of name; a tensor larger than the limit gets a shard of its own.
ShardPlan PlanShards(const ModelSource& source, const HfExportOptions& options) {
  ShardPlan shards(1);
  int64_t bytes = 0;
  for (const SourceTensor& tensor : source.tensors()) {
    const SafetensorsSpec spec{tensor.name, options.dtype, tensor.shape};
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
                 DType dtype) {
  for (size_t i = 0; i < shards.size(); ++i) {
    SafetensorsWriter writer(folder + "/" + ShardName(i, shards.size()), shards[i]);
    for (size_t t = 0; t < writer.specs().size(); ++t) {
      ForEachBlock(source, source.Get(writer.specs()[t].name), Role::kMaster, dtype,
                   [&](const ValueBlock& block) {
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

void WriteConfigs(const config::ModelConfig& config, const std::string& folder, DType dtype) {
  WriteFileAtomic(folder + "/config.json", MakeHfConfig(config, dtype));
  WriteFileAtomic(folder + "/generation_config.json",
                  "{\n  \"_from_model_config\": true,\n  \"bos_token_id\": 0,\n"
                  "  \"eos_token_id\": 0\n}\n");
}

// Opens what was written and compares it with the source.
void VerifyExport(const ModelSource& source, const std::string& folder, DType dtype) {
  const auto written = OpenHfFolder(folder);
  config::ModelConfig expected;
  config::ModelConfig found;
  source.FillModelConfig(&expected);
  KeepHfFields(&expected);
  written->FillModelConfig(&found);
  CHECK(expected.SerializeAsString() == found.SerializeAsString(),
        "config.json lost something:\n{}\nbecame\n{}", expected.ShortDebugString(),
        found.ShortDebugString());
  CHECK_EQ(written->tensors().size(), source.tensors().size());
  std::vector<float> wanted;
  std::vector<float> values;
  for (const SourceTensor& tensor : source.tensors()) {
    ForEachBlock(source, tensor, Role::kMaster, dtype, [&](const ValueBlock& block) {
      const auto size = static_cast<size_t>(block.part.num_elements());
      wanted.resize(size);
      values.resize(size);
      WidenToFloats(dtype, block.bytes, wanted);
      written->ReadPart(tensor.name, block.part,
                        TensorView::Of(std::span(values), block.part.extent));
      if (std::memcmp(wanted.data(), values.data(), size * sizeof(float)) != 0) {
        throw BadData(folder, -1,
                      fmt::format("tensor '{}' did not read back as written", tensor.name),
                      "check the disk");
      }
    });
  }
}

void WarnAboutDifferences(const config::ModelConfig& config) {
  if (!HasSparseAttention(config)) return;
  LogWarn(
      "this model has {} attention; transformers, vLLM and others that read this folder compute "
      "full attention, and their results will differ. config.json keeps the settings under "
      "\"sepllm\" for Sepia.",
      config::AttentionConfig::Kind_Name(config.attention().kind()));
}

}  // namespace

void ExportHfFolder(const ModelSource& source, const std::string& folder,
                    const HfExportOptions& options) {
  config::ModelConfig config;
  source.FillModelConfig(&config);
  WarnAboutDifferences(config);
  NewDirectory directory(folder);
  const ShardPlan shards = PlanShards(source, options);
  WriteShards(source, shards, directory.path(), options.dtype);
  if (shards.size() > 1) WriteIndex(shards, directory.path());
  WriteConfigs(config, directory.path(), options.dtype);
  const std::vector<std::string> tokenizer = TokenizerFiles(source);
  for (const std::string& file : tokenizer) {
    WriteFileAtomic(directory.path() + "/" + std::filesystem::path(file).filename().string(),
                    ReadFile(file));
  }
  if (tokenizer.empty()) {
    LogWarn("the source has no tokenizer.json; put the tokenizer's files into {} yourself", folder);
  }
  VerifyExport(source, directory.path(), options.dtype);
  directory.Commit();
}

}  // namespace sepia::checkpoint
