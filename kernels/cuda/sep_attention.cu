// The tensor-core kernels of one head size and format, and how they are launched. Compiled once for
// each: SEPIA_HEAD_DIM (padded), SEPIA_FORMAT (Bf16, Fp16), SEPIA_KERNELS (the name of the table).
#include "kernels/cuda/sep_dkv.cuh"
#include "kernels/cuda/sep_dq.cuh"
#include "kernels/cuda/sep_forward.cuh"
#include "kernels/cuda/sep_prepare.cuh"

namespace sepia::kernels::cuda {
namespace {

using Format = SEPIA_FORMAT;
constexpr int kDim = SEPIA_HEAD_DIM;

uint32_t Heads(const SepAttentionParams& p) {
  return static_cast<uint32_t>(p.batch_size * p.num_heads);
}
uint32_t Tiles(int rows, int rows_of_tile) {
  return static_cast<uint32_t>((rows + rows_of_tile - 1) / rows_of_tile);
}

void LaunchPack(Stream& stream, const SepAttentionParams& p) {
  Launch(stream,
         {.name = "SepPack",
          .grid = {Heads(p), Tiles(p.max_packed * (p.head_dim / 8), kPackChunks)},
          .block = kPrepareThreads},
         &SepPack, p);
}

void LaunchForward(Stream& stream, const SepAttentionParams& p) {
  using Shape = ForwardShape<kDim>;
  Launch(stream,
         {.name = "SepForward",
          .grid = {Heads(p), Tiles(p.seq_length, Shape::kRows)},
          .block = Shape::kThreads,
          .shared_bytes = Shape::kSharedBytes},
         &SepForward<Format, kDim>, p);
}

void LaunchRowStats(Stream& stream, const SepAttentionParams& p) {
  const int64_t rows = static_cast<int64_t>(p.batch_size) * p.seq_length * p.num_heads;
  constexpr int kRows = RowStatsShape<kDim>::kRows;
  Launch(stream,
         {.name = "SepRowStats",
          .grid = {static_cast<uint32_t>((rows + kRows - 1) / kRows)},
          .block = kPrepareThreads},
         &SepRowStats<Format, kDim>, p);
}

void LaunchDq(Stream& stream, const SepAttentionParams& p) {
  using Shape = DqShape<kDim>;
  Launch(stream,
         {.name = "SepDq",
          .grid = {Heads(p), Tiles(p.seq_length, Shape::kRows)},
          .block = Shape::kThreads,
          .shared_bytes = Shape::kSharedBytes},
         &SepDq<Format, kDim>, p);
}

void LaunchDkvFar(Stream& stream, const SepAttentionParams& p) {
  using Shape = DkvShape<kDim>;
  Launch(stream,
         {.name = "SepDkvFar",
          .grid = {Heads(p), Tiles(p.max_packed, Shape::kRows),
                   static_cast<uint32_t>(p.num_segments * Shape::kColumnParts)},
          .block = Shape::kThreads,
          .shared_bytes = Shape::kSharedBytes},
         &SepDkvFar<Format, kDim>, p);
}

void LaunchDkvBand(Stream& stream, const SepAttentionParams& p) {
  using Shape = DkvShape<kDim>;
  Launch(stream,
         {.name = "SepDkvBand",
          .grid = {Heads(p), Tiles(p.seq_length, Shape::kRows), Shape::kColumnParts},
          .block = Shape::kThreads,
          .shared_bytes = Shape::kSharedBytes},
         &SepDkvBand<Format, kDim>, p);
}

}  // namespace

extern const SepAttentionKernels SEPIA_KERNELS;
const SepAttentionKernels SEPIA_KERNELS = {.padded_dim = kDim,
                                           .pack = &LaunchPack,
                                           .forward = &LaunchForward,
                                           .row_stats = &LaunchRowStats,
                                           .dq = &LaunchDq,
                                           .dkv_far = &LaunchDkvFar,
                                           .dkv_band = &LaunchDkvBand};

}  // namespace sepia::kernels::cuda
