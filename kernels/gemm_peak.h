// The matrix-product speed that a machine can reach: what MFU is a share of.
#pragma once

#include "base/dtype.h"

namespace sepia::kernels {

// Best speed of LinearForward over a few shapes of training, in 1e9 operations a second (a
// multiply-add is two), with `num_threads` threads. Takes about 0.3 s.
double MeasureGemmPeakGflops(DType dtype, int num_threads);

}  // namespace sepia::kernels
