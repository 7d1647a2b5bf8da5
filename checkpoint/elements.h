// Element conversions between stored bytes and fp32. Stored bytes need no alignment.
#pragma once

#include <cstddef>
#include <span>

#include "base/dtype.h"

namespace sepia::checkpoint {

// out[i] = element i of `bytes`. Exact for f32, bf16 and f16; f64 rounds to nearest. CHECK-fails
// for integer types: callers refuse those with the name of the tensor.
void WidenToFloats(DType dtype, std::span<const std::byte> bytes, std::span<float> out);

// The other way, for f32, bf16 and f16: round to nearest, ties to even; NaN stays NaN.
void NarrowFromFloats(std::span<const float> values, DType dtype, std::span<std::byte> out);

}  // namespace sepia::checkpoint
