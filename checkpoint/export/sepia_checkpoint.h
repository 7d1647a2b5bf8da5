// A model of any format as a Sepia checkpoint.
#pragma once

#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// Writes `directory`/step_N with everything the source has: weights, moments and training state, or
// weights alone (then N is 0); tokenizer files travel along. fp32 keeps masters; another dtype
// keeps weights only. Returns the path of the step. Throws UserError(kUsage) when `directory`
// exists and is not empty.
std::string ExportSepiaCheckpoint(const ModelSource& source, const std::string& directory,
                                  DType dtype);

}  // namespace sepia::checkpoint
