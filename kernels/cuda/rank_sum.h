// Sums over ranks on the device, in rank order: what makes results depend on nothing but the ranks.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

// out[i] = sum over ranks r of part(r)[i], from rank 0 on; bf16 and f16 in fp32, rounded once.
struct RankSumParams {
  DType dtype;  // f32, bf16, f16
  int64_t count;
  int num_ranks;
  int own_rank;
  const void* own;       // part(own_rank) [count]; may be `out`
  const void* received;  // [num_ranks, count]: the other parts; that of own_rank is ignored
  void* out;             // [count]
};
void SumOverRanks(Stream& stream, const RankSumParams& params);

}  // namespace sepia::kernels::cuda
