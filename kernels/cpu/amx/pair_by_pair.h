// Products of the backward sweep pair by pair. A tile product multiplies hidden pairs by 0, which
// gives NaN where the other factor is not finite: panels of keys and tiles of queries that hold
// such numbers go this way.
#pragma once

#include "kernels/cpu/amx/backward_arrays.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

// dQ^T of the tile += K^T dS^T.
inline void AddVisibleKeys(const PanelSight& sight, const std::byte* ds_columns, float* dq) {
  const PanelRows keys = {sight.head, sight.segment, sight.panel, 1};
  for (int64_t r = 0; r < kPanelKeys; ++r) {
    const std::byte* ds = ds_columns + BackwardArrays::ColumnsOffset(r);
    for (uint32_t visible = sight.QueriesFor(r); visible != 0; visible &= visible - 1) {
      const int query = __builtin_ctz(visible);
      float* sums = dq + query / 4 % 2 * kTileFloats + ColumnOfQuery(query);
      for (int64_t d = 0; d < sight.head.head_dim; ++d) {
        sums[d / 16 * 2 * kTileFloats + d % 16 * 16] += NumberAt(ds, query) * NumberAt(keys(r), d);
      }
    }
  }
}

// dV of the panel += P^T dO, dK += dS^T Q: row_of(i) is that of query i of the tile.
template <typename RowOf>
inline void AddVisibleQueries(const PanelSight& sight, const std::byte* columns,
                              const RowOf& row_of, float* gradient) {
  const int64_t head_dim = sight.head.head_dim;
  for (int64_t r = 0; r < kPanelKeys; ++r) {
    AddVisibleRows(sight.QueriesFor(r), columns + BackwardArrays::ColumnsOffset(r), row_of,
                   head_dim, gradient + GradientOffset(r, Steps(head_dim)));
  }
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
