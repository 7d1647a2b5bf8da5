// Where code under test runs: tests of ops and of the model make a second program each for the cuda
// backend (tests/cuda).
#pragma once

#include "base/tensor.h"

namespace sepia::testing {

#ifdef SEPIA_TEST_ON_CUDA
inline constexpr Device kTestDevice = Device::kCuda;
#else
inline constexpr Device kTestDevice = Device::kCpu;
#endif

}  // namespace sepia::testing
