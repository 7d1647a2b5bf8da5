// A model's state as one plain safetensors file, for comparing states with other software.
#pragma once

#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// fp32 tensors "weight.<hf name>" and, where the source has them, "exp_avg.<hf name>" and
// "exp_avg_sq.<hf name>"; "__metadata__" has "step" where the source knows it.
void ExportTensorsFile(const ModelSource& source, const std::string& path);

}  // namespace sepia::checkpoint
