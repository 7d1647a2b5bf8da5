// Reads an export back through the import and compares it with what was exported.
#pragma once

#include <functional>
#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// The architecture came back as it was; a difference is an InternalError.
void CheckSameModel(const ModelSource& source, const ModelSource& written);

// Every tensor of `written` is that of `source` rounded to `stored_type(tensor)`, bit for bit.
// Throws BadData naming `path`.
void VerifyTensors(const ModelSource& source, const ModelSource& written, const std::string& path,
                   const std::function<DType(const SourceTensor&)>& stored_type);

}  // namespace sepia::checkpoint
