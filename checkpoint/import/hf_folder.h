// A Hugging Face model folder: config.json and model.safetensors, or shards with an index.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// Whether the folder has config.json or weights under one of the usual names.
bool LooksLikeHfFolder(const std::string& path);

// Checks config, index, names and shapes; no tensor data are read yet.
std::unique_ptr<ModelSource> OpenHfFolder(const std::string& path);

}  // namespace sepia::checkpoint
