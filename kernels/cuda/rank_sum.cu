#include "kernels/cuda/rank_sum.h"

#include "kernels/cuda/dense_ops.cuh"

namespace sepia::kernels::cuda {
namespace {

template <typename Format>
struct RankSumOp {
  using T = Storage<Format>;
  int64_t rows, columns;  // 1, count
  int num_ranks, own_rank;
  const T *own, *received;
  T* out;

  SEPIA_DEVICE void Chunk(int64_t, int64_t column, int count) const {
    float sum[kChunk] = {}, part[kChunk];
    for (int rank = 0; rank < num_ranks; ++rank) {
      const T* from = rank == own_rank ? own : received + rank * columns;
      LoadChunk<Format>(part, from + column, count);
      for (int i = 0; i < kChunk; ++i) sum[i] = rank == 0 ? part[i] : sum[i] + part[i];
    }
    StoreChunk<Format>(out + column, sum, count);
  }
};

}  // namespace

void SumOverRanks(Stream& stream, const RankSumParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    using T = Storage<decltype(format)>;
    LaunchChunks(stream, "SumOverRanks",
                 RankSumOp<decltype(format)>{
                     1, p.count, p.num_ranks, p.own_rank, static_cast<const T*>(p.own),
                     static_cast<const T*>(p.received), static_cast<T*>(p.out)});
  });
}

}  // namespace sepia::kernels::cuda
