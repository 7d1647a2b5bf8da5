// Where code under test runs. Tests of ops and of the model make a second program each for the cuda
// backend (tests/cuda); CMake says which of the two folders a program sees.
#pragma once

#include "base/tensor.h"

namespace sepia::testing {

inline constexpr Device kTestDevice = Device::kCpu;

}  // namespace sepia::testing
