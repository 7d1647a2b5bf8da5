// What the row-wise ops share: dispatch by dtype, loops over chunks, column sums.
#pragma once

#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/elements.cuh"

namespace sepia::kernels::cuda {

inline constexpr int kDenseThreads = 128;

// fn(Fp32{}), fn(Bf16{}) or fn(Fp16{}).
template <typename Fn>
void DispatchFormat(DType dtype, const Fn& fn) {
  switch (dtype) {
    case DType::kBFloat16: return fn(Bf16{});
    case DType::kFloat16: return fn(Fp16{});
    default: return fn(Fp32{});
  }
}

inline uint32_t DivideUp(int64_t a, int64_t b) { return static_cast<uint32_t>((a + b - 1) / b); }

// Sums one double a thread in the order of a tree; every thread gets the result. Takes shared
// memory for a double a thread.
SEPIA_DEVICE double SumOverBlock(double value) {
  auto* values = reinterpret_cast<double*>(SharedMemory());
  StoreShared(values + ThreadIndex(), value);
  for (int half = kDenseThreads / 2; half > 0; half /= 2) {
    SyncThreads();
    if (ThreadIndex() < half) {
      value += LoadShared(values + ThreadIndex() + half);
      StoreShared(values + ThreadIndex(), value);
    }
  }
  SyncThreads();
  value = LoadShared(values);
  SyncThreads();
  return value;
}

// One column's sums over all partial results, in order of the rows.
struct ReduceColumnsParams {
  int64_t columns;
  int num_partials;
  const float* partials;  // [num_partials, 2, columns]
  float* sums[2];         // or null
  bool add;
};

[[maybe_unused]] static SEPIA_KERNEL(kDenseThreads, 1) ReduceColumns(const ReduceColumnsParams p) {
  const int64_t column = static_cast<int64_t>(BlockIndexX()) * kDenseThreads + ThreadIndex();
  if (column >= p.columns) return;
  for (int which = 0; which < 2; ++which) {
    if (p.sums[which] == nullptr) continue;
    float sum = p.add ? LoadGlobal(p.sums[which] + column) : 0.0f;
    for (int i = 0; i < p.num_partials; ++i) {
      sum += LoadGlobal(p.partials + (static_cast<int64_t>(i) * 2 + which) * p.columns + column);
    }
    StoreGlobal(p.sums[which] + column, sum);
  }
}

// Walks kSumRows rows of eight columns a thread; op.Row(row, column, count, sums) adds to both
// sums. Grid: x = chunks of columns, y = row blocks.
template <typename Op>
SEPIA_KERNEL(kDenseThreads, 1)
SumColumns(const Op op) {
  const int64_t column =
      (static_cast<int64_t>(BlockIndexX()) * kDenseThreads + ThreadIndex()) * kChunk;
  if (column >= op.columns) return;
  const int count = static_cast<int>(op.columns - column < kChunk ? op.columns - column : kChunk);
  const int64_t first = static_cast<int64_t>(BlockIndexY()) * kSumRows;
  float sums[2][kChunk] = {};
  for (int64_t row = first; row < first + kSumRows && row < op.rows; ++row) {
    op.Row(row, column, count, sums);
  }
  for (int which = 0; which < 2; ++which) {
    float* to = op.scratch + (static_cast<int64_t>(BlockIndexY()) * 2 + which) * op.columns;
    StoreChunk<Fp32>(to + column, sums[which], count);
  }
}

template <typename Op>
void LaunchColumnSums(Stream& stream, const char* name, const Op& op, float* first, float* second,
                      bool add) {
  const uint32_t row_blocks = DivideUp(op.rows, kSumRows);
  Launch(stream,
         {.name = name,
          .grid = {DivideUp(op.columns, kChunk * kDenseThreads), row_blocks},
          .block = kDenseThreads},
         &SumColumns<Op>, op);
  Launch(stream,
         {.name = "ReduceColumns",
          .grid = {DivideUp(op.columns, kDenseThreads)},
          .block = kDenseThreads},
         &ReduceColumns,
         {.columns = op.columns,
          .num_partials = static_cast<int>(row_blocks),
          .partials = op.scratch,
          .sums = {first, second},
          .add = add});
}

// op.Chunk(row, column, count) for all chunks of eight columns. Grid: x = chunks, y = rows.
template <typename Op>
SEPIA_KERNEL(kDenseThreads, 1)
ForChunks(const Op op) {
  const int64_t per_row = (op.columns + kChunk - 1) / kChunk;
  const int64_t item = static_cast<int64_t>(BlockIndexX()) * kDenseThreads + ThreadIndex();
  if (item >= per_row * op.rows) return;
  const int64_t row = item / per_row, column = item % per_row * kChunk;
  const int count = static_cast<int>(op.columns - column < kChunk ? op.columns - column : kChunk);
  op.Chunk(row, column, count);
}

template <typename Op>
void LaunchChunks(Stream& stream, const char* name, const Op& op) {
  const int64_t chunks = (op.columns + kChunk - 1) / kChunk * op.rows;
  Launch(stream, {.name = name, .grid = {DivideUp(chunks, kDenseThreads)}, .block = kDenseThreads},
         &ForChunks<Op>, op);
}

}  // namespace sepia::kernels::cuda
