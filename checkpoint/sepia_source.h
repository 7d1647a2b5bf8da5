// A Sepia checkpoint as a ModelSource.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// The directory whose step_N entries `path` stands for: itself, or path/checkpoints of a run
// directory. Nothing for anything else, a step directory included.
std::optional<std::string> FindCheckpointRoot(const std::string& path);

// The step directory that `path` stands for: itself, or the newest checkpoint of a directory of
// checkpoints or of a run directory. Nothing when `path` is none of these; throws BadData when it
// is one but holds no checkpoint that can be loaded.
std::optional<std::string> FindStepDirectory(const std::string& path);

std::unique_ptr<ModelSource> OpenSepiaCheckpoint(const std::string& step_dir);

}  // namespace sepia::checkpoint
