// Sums, minima and maxima over ranks, in rank order.
#pragma once

#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "dist/communicator.h"

namespace sepia::dist {

// out[i] = parts[0][i] op parts[1][i] op ...: left to right; bf16 and f16 in fp32, rounded once.
// Each part has `count` elements; `out` may be one of them.
void ReduceInOrder(std::span<const void* const> parts, int64_t count, DType dtype, ReduceOp op,
                   void* out);

}  // namespace sepia::dist
