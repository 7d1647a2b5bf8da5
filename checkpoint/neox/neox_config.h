// The YAML configs of a GPT-NeoX run: what a checkpoint's tensors do not say.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/json.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

// The keys of several files as one object, "-" as "_". Throws BadData when two files or spellings
// give the same key, as GPT-NeoX does.
JsonObject ReadNeoxConfigs(const std::vector<std::string>& paths);

// *.yml and *.yaml of `folder`/configs, or of `folder` itself; sorted.
std::vector<std::string> FindNeoxConfigs(const std::string& folder);

// The architecture, with GPT-NeoX's defaults (megatron/neox_arguments/neox_args.py), but for
// vocab_size, which the tensors know. Refuses what Sepia does not compute. SepLLM's keys
// (HKUDS/SepLLM, Training-SepLLM) become `attention`. `path` is for messages.
void FillNeoxModelConfig(const JsonObject& keys, const std::string& path,
                         config::ModelConfig* model);

// SepLLM's keys alone, as also a config.json of model_type "sepllm_gpt_neox" has them; sizes of
// `model` are set.
void FillSepllmAttention(const JsonObject& keys, const std::string& path,
                         config::ModelConfig* model);

}  // namespace sepia::checkpoint
