// Compares sources with files of expected tensors.
#pragma once

#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint::testing {

// The source has exactly the tensors of the safetensors file, bit for bit. With `prefix`
// ("weight.", "exp_avg.") only entries whose names begin with it count, without it.
void ExpectTensors(const ModelSource& source, const std::string& expected_path,
                   Role role = Role::kMaster, const std::string& prefix = "");

// Reads every tensor in every role that there is.
void ReadEverything(const ModelSource& source);

}  // namespace sepia::checkpoint::testing
