// Inputs for benchmarks.
#pragma once

#include <string_view>

#include "base/buffer.h"

namespace sepia::tools {

// Standard normal numbers rounded to the dtype, never zeros: those cost a processor less power.
// Large tensors repeat a million of them.
OwnedTensor RandomTensor(std::string_view name, DType dtype, const Shape& shape);

// The same values in fp32.
OwnedTensor Widened(ConstTensorView tensor);

}  // namespace sepia::tools
