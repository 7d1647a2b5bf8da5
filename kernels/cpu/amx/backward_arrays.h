// Memory of one backward task.
#pragma once

#include "kernels/cpu/amx/panels.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

// Tiles of queries that are swept together: their P^T and dS^T are kept until dK and dV of a span
// of panels take them up. What a group touches has to stay in the L2 cache.
inline constexpr int64_t kGroupTiles = 4;
inline constexpr int64_t kGroupQueries = kGroupTiles * kTileQueries;
// Panels per span at most.
inline constexpr int64_t kSpanPanels = 16;

// Query within its tile of 32 that column `column` of tile `half` of dQ^T belongs to: what
// unpacking words of two rows does to their order.
constexpr int64_t QueryOfColumn(int64_t half, int64_t column) {
  return column / 4 * 8 + column % 4 + 4 * half;
}
constexpr int64_t ColumnOfQuery(int64_t query) { return query / 8 * 4 + query % 4; }

// A panel of keys with its gradients.
class KeyPanel {
 public:
  KeyPanel(std::byte* begin, int64_t steps) : begin_(begin), form_(FormBytes(steps)) {}
  // An odd multiple of 2 KB, so that the same part of consecutive panels spreads over the cache.
  static int64_t Bytes(int64_t steps) {
    const int64_t bytes = 3 * FormBytes(steps) + 2 * GradientFloats(steps) * 4;
    return bytes % 4096 == 0 ? bytes + 2048 : bytes;
  }
  std::byte* key_rows() const { return begin_; }
  std::byte* value_rows() const { return begin_ + form_; }
  std::byte* key_columns() const { return begin_ + 2 * form_; }  // K^T: [2 * steps] A tiles
  // Without the factor 1 / sqrt(D): [2][2 * steps] tiles.
  float* dk() const { return reinterpret_cast<float*>(begin_ + 3 * form_); }
  float* dv() const { return reinterpret_cast<float*>(begin_ + 5 * form_); }

 private:
  std::byte* begin_;
  int64_t form_;
};

struct BackwardArrays {
  BackwardArrays(int64_t seq_length, int64_t head_dim, std::byte* begin)
      : steps(Steps(head_dim)), workspace(begin) {
    const int64_t form = FormBytes(steps);
    rows = workspace.Bytes(form);
    query_columns = workspace.Bytes(kGroupTiles * form);
    dout_columns = workspace.Bytes(kGroupTiles * form);
    queries = workspace.Bytes(kGroupTiles * form);
    douts = workspace.Bytes(kGroupTiles * form);
    dq = workspace.Floats(kGroupTiles * GradientFloats(steps));
    lse = workspace.Floats(kGroupQueries);
    minus_d = workspace.Floats(kGroupQueries);
    scores = workspace.Floats(4 * kTileFloats);
    dp = workspace.Floats(4 * kTileFloats);
    ds = workspace.Bytes(kSpanPanels * 2 * kTileBytes);
    p_columns = workspace.Bytes(kSpanPanels * kPanelGroupBytes);
    ds_columns = workspace.Bytes(kSpanPanels * kPanelGroupBytes);
    const int64_t max_panels = PanelStore::MaxPanels(seq_length, kGroupQueries);
    panels = workspace.Bytes(max_panels * KeyPanel::Bytes(steps));
    marks = workspace.Bytes(max_panels);
  }

  static constexpr int64_t kPanelGroupBytes = 2 * kGroupTiles * kTileBytes;

  // Tile `t` of the group.
  std::byte* QueryColumns(int64_t t) const { return query_columns + t * FormBytes(steps); }
  std::byte* DoutColumns(int64_t t) const { return dout_columns + t * FormBytes(steps); }
  // Pair `pair` of the interleaved form of tile t: [pair][kGroupTiles][2] tiles.
  static int64_t InterleavedOffset(int64_t t, int64_t pair) {
    return (pair * kGroupTiles + t) * 2 * kTileBytes;
  }
  // Row r, which is 32 queries of a tile, among the columns of a panel, from its tile on.
  static int64_t ColumnsOffset(int64_t r) {
    return r / 16 * kGroupTiles * kTileBytes + r % 16 * 64;
  }
  float* Dq(int64_t t) const { return dq + t * GradientFloats(steps); }

  int64_t steps;
  Workspace workspace;
  std::byte* rows;           // rows on their way to another form
  std::byte* query_columns;  // per tile of the group, Q and dO in two forms each
  std::byte* dout_columns;
  std::byte* queries;
  std::byte* douts;
  float* dq;              // dQ^T per tile: [2 * steps][2] tiles, columns permuted (QueryOfColumn)
  float* lse;             // in units of log2
  float* minus_d;         // -D_i
  float* scores;          // S^T of one panel and tile: [2][2] tiles
  float* dp;              // dP^T - D_i
  std::byte* ds;          // dS^T of a tile, key pairs interleaved: [kSpanPanels][2] tiles
  std::byte* p_columns;   // P^T of a group: [kSpanPanels][2][kGroupTiles] tiles
  std::byte* ds_columns;  // dS^T
  std::byte* panels;
  std::byte* marks;  // PanelStore's
};

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
