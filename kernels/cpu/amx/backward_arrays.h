// Memory of one backward task.
#pragma once

#include "kernels/cpu/amx/panels.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

// Queries whose P^T and dS^T are kept until dK and dV of a span of panels take them up.
inline constexpr int64_t kGroupTiles = 8;
inline constexpr int64_t kGroupQueries = kGroupTiles * kTileQueries;
// Panels per span at most.
inline constexpr int64_t kSpanPanels = 16;

// A block of queries is swept over one span of panels after the other, so that a span is fetched
// once per block: 1024 queries at D = 64 (their forms and dQ: 768 KB) when the keys do not fit the
// L2 cache beside them, one group when they do.
inline constexpr int64_t kBlockFloats = 1024 * 64;
inline constexpr int64_t kCachedPanelBytes = 1 << 20;

inline int64_t MaxBlockQueries(int64_t seq_length, int64_t steps) {
  const int64_t wanted = CeilDiv(kBlockFloats / (32 * steps), kGroupQueries) * kGroupQueries;
  return Smaller(wanted, CeilDiv(seq_length, kGroupQueries) * kGroupQueries);
}

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
    const int64_t block = MaxBlockQueries(seq_length, steps);
    const int64_t form = FormBytes(steps);
    const int64_t tiles = block / kTileQueries;
    rows = workspace.Bytes(form);
    query_columns = workspace.Bytes(tiles * form);
    dout_columns = workspace.Bytes(tiles * form);
    queries = workspace.Bytes(tiles * form);
    douts = workspace.Bytes(tiles * form);
    dq = workspace.Floats(tiles * GradientFloats(steps));
    lse = workspace.Floats(block);
    minus_d = workspace.Floats(block);
    scores = workspace.Floats(4 * kTileFloats);
    dp = workspace.Floats(4 * kTileFloats);
    ds = workspace.Bytes(kSpanPanels * 2 * kTileBytes);
    p_columns = workspace.Bytes(kSpanPanels * kPanelGroupBytes);
    ds_columns = workspace.Bytes(kSpanPanels * kPanelGroupBytes);
    panels = workspace.Bytes(PanelStore::MaxPanels(seq_length, block) * KeyPanel::Bytes(steps));
  }

  static constexpr int64_t kPanelGroupBytes = 2 * kGroupTiles * kTileBytes;

  // Tile `t` of the block.
  std::byte* QueryColumns(int64_t t) const { return query_columns + t * FormBytes(steps); }
  std::byte* DoutColumns(int64_t t) const { return dout_columns + t * FormBytes(steps); }
  // Pair `pair` of the interleaved form of tile t: [group][pair][kGroupTiles][2] tiles.
  int64_t InterleavedOffset(int64_t t, int64_t pair) const {
    const int64_t group = t / kGroupTiles;
    return ((group * steps + pair) * kGroupTiles + t % kGroupTiles) * 2 * kTileBytes;
  }
  float* Dq(int64_t t) const { return dq + t * GradientFloats(steps); }

  int64_t steps;
  Workspace workspace;
  std::byte* rows;           // rows on their way to another form
  std::byte* query_columns;  // per tile of the block, Q and dO in two forms each
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
};

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
