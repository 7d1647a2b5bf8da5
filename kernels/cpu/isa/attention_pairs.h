// Products of Sep-Attention pair by pair, for numbers that are not finite. For the files of this
// folder only.
#pragma once

#include "kernels/cpu/isa/attention_tiles.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

// AddProduct takes hidden pairs along as zeros, which gives NaN where the other factor is not
// finite. Where there is such a number: c [dim] += sum over k in [begin, end) of factor(k) times
// row k of `rows` [., dim], paired, one after the other.
template <typename Factor>
inline void AddVisibleRows(int64_t begin, int64_t end, const Factor& factor, const float* rows,
                           int64_t dim, float* c) {
  for (int64_t k = begin; k < end; ++k) {
    const Vec f = Set(ToFloat(factor(k)));
    const float* row = rows + k / kPair * dim;
    for (int64_t d = 0; d < dim; d += kLanes) {
      Store(c + d, Fma(f, NumbersOf(Load(row + d), k % kPair), Load(c + d)));
    }
  }
}
// The same for every query of a tile: sums [kTileQueries, dim] += coefficients [kTileQueries,
// kChunkKeys] times rows, for the keys that each sees.
inline void AddVisibleKeys(const VisibleKeys& visible, const Number* coefficients,
                           const float* rows, int64_t dim, float* sums) {
  for (int64_t r = 0; r < kTileQueries; ++r) {
    const Number* row = coefficients + r * kChunkKeys;
    AddVisibleRows(
        visible.low[r], visible.high[r], [&](int64_t key) { return row[key]; }, rows, dim,
        sums + r * dim);
  }
}

// gradients [kChunkKeys, dim] += columns^T rows for the queries that see each key: what
// AddVisibleRows is for. `columns` [kTileQueries / kPair, kChunkKeys] pairs queries, as do the
// rows.
inline void AddVisibleQueries(const QueryTile& tile, const VisibleKeys& visible,
                              const float* columns, const float* rows, int64_t dim,
                              float* gradients) {
  int64_t begin = 0;
  int64_t end = 0;
  for (int64_t key = 0; key < kChunkKeys; ++key) {
    while (begin < tile.size && visible.high[begin] <= key) ++begin;
    while (end < tile.size && visible.low[end] <= key) ++end;
    AddVisibleRows(
        begin, end,
        [&](int64_t i) { return Numbers(columns + i / kPair * kChunkKeys + key)[i % kPair]; }, rows,
        dim, gradients + key * dim);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
