// A model as a GPT-NeoX checkpoint, to go on with there: layer files of one tensor-parallel rank,
// counters, configs. Loads with `finetune: true` (no optimizer state is written).
#pragma once

#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// Writes `latest` and global_step<N>/ to a new directory, reads it back as an import would and
// compares everything bit for bit before it appears under its name. `dtype` is that of the weights.
// Throws UserError(kUsage) when `folder` exists and is not empty.
void ExportNeoxFolder(const ModelSource& source, const std::string& folder, DType dtype);

}  // namespace sepia::checkpoint
