// A model as a Hugging Face GPT-NeoX folder: what transformers, vLLM and converters of others read.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/export/hf_config.h"
#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

struct HfExportOptions {
  DType dtype = DType::kFloat32;            // kFloat32, kBFloat16 or kFloat16
  int64_t max_shard_bytes = 5'000'000'000;  // as transformers
  HfFlavor flavor = HfFlavor::kGptNeox;
};

// Writes config.json, generation_config.json, model.safetensors (or shards with an index) and the
// source's tokenizer files to a new directory, then opens it as any import would and compares every
// tensor bit for bit. The directory appears under its name only after that. Throws
// UserError(kUsage) when `folder` exists and is not empty. Logs what transformers will compute
// differently.
void ExportHfFolder(const ModelSource& source, const std::string& folder,
                    const HfExportOptions& options);

}  // namespace sepia::checkpoint
