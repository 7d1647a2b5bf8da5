// Which panels of keys a range of queries sees, and what of them. Band panel p holds keys [32p, 32p
// + 32), packed panel p the far-visible keys of the same numbers; the last one of either is filled
// with zeros.
#pragma once

#include "kernels/cpu/amx/packing.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

// Query i takes its first far(i) packed keys.
inline int64_t FarCount(const Head& head, int64_t query) {
  if (head.count == nullptr || query < head.window) return 0;
  return head.count[query - head.window];
}

inline const BFloat16* QkvRow(const Head& head, int64_t row, int64_t part) {
  return head.qkv + row * head.qkv_stride + part * head.head_dim;
}

// 1 / sqrt(D), the factor of every score.
inline float ScoreScale(const Head& head) {
  return 1.0f / __builtin_sqrtf(static_cast<float>(head.head_dim));
}

struct Panel {
  bool packed;
  int64_t first;  // number of its first key: a position, or an index of positions
};

// Panels that some query of [begin, end) sees: packed ones, then those of the band.
class PanelList {
 public:
  PanelList(const Head& head, int64_t begin, int64_t end)
      : num_packed_(CeilDiv(FarCount(head, end - 1), kPanelKeys)),
        first_band_(Larger(0, begin - head.window + 1) / kPanelKeys),
        size_(num_packed_ + CeilDiv(end, kPanelKeys) - first_band_) {}
  int64_t size() const { return size_; }
  Panel operator[](int64_t i) const {
    if (i < num_packed_) return {true, i * kPanelKeys};
    return {false, (first_band_ + i - num_packed_) * kPanelKeys};
  }

 private:
  int64_t num_packed_;
  int64_t first_band_;
  int64_t size_;
};

// Where the packed forms of panels lie: band panels in a ring, behind it the packed ones. Marks
// panels with numbers that are not finite where the sweep has to avoid products with them, and
// those whose gradients are still to be written for the first time.
class PanelStore {
 public:
  // `sweep_queries` queries are swept together; `marks` is a byte for each of MaxPanels.
  PanelStore(const Head& head, const Segment& segment, int64_t sweep_queries, int64_t panel_bytes,
             std::byte* memory, std::byte* marks)
      : ring_(Smaller(CeilDiv(segment.end, kPanelKeys) - FirstBand(head, segment),
                      (head.window - 1 + sweep_queries) / kPanelKeys + 2)),
        panel_bytes_(panel_bytes),
        memory_(memory),
        marks_(marks) {}

  static int64_t FirstBand(const Head& head, const Segment& segment) {
    return Larger(0, segment.begin - head.window + 1) / kPanelKeys;
  }
  // Panels of any segment, whatever the window: the ring and the packed keys share T keys.
  static int64_t MaxPanels(int64_t seq_length, int64_t sweep_queries) {
    return CeilDiv(seq_length + sweep_queries, kPanelKeys) + 3;
  }

  std::byte* operator[](const Panel& panel) const { return memory_ + SlotOf(panel) * panel_bytes_; }

  // A panel that has just been packed; its gradients hold nothing yet.
  void Mark(const Panel& panel, bool finite) {
    marks_[SlotOf(panel)] = kEmpty | (finite ? std::byte{0} : kNotFinite);
    all_finite_ = all_finite_ && finite;
  }
  bool AllFinite() const { return all_finite_; }
  bool IsFinite(const Panel& panel) const {
    return all_finite_ || (marks_[SlotOf(panel)] & kNotFinite) == std::byte{0};
  }
  bool IsEmpty(const Panel& panel) const {
    return (marks_[SlotOf(panel)] & kEmpty) != std::byte{0};
  }
  void MarkFilled(const Panel& panel) { marks_[SlotOf(panel)] &= ~kEmpty; }

 private:
  static constexpr std::byte kNotFinite{1};
  static constexpr std::byte kEmpty{2};

  int64_t SlotOf(const Panel& panel) const {
    const int64_t number = panel.first / kPanelKeys;
    return panel.packed ? ring_ + number : number % ring_;
  }

  int64_t ring_;
  int64_t panel_bytes_;
  std::byte* memory_;
  std::byte* marks_;
  bool all_finite_ = true;  // of all panels so far
};

// Row i of part k or v of a panel; null behind its last key.
struct PanelRows {
  const Head& head;
  const Segment& segment;
  Panel panel;
  int64_t part;

  const BFloat16* operator()(int64_t i) const {
    const int64_t key = panel.first + i;
    if (panel.packed) {
      return key < segment.num_packed ? QkvRow(head, head.positions[key], part) : nullptr;
    }
    return key < head.seq_length ? QkvRow(head, key, part) : nullptr;
  }
};

// Queries [begin, begin + size) of a sweep.
struct QueryTile {
  int64_t begin;
  int64_t size;  // 1 ... kTileQueries
  int64_t last() const { return begin + size - 1; }
};

// What the queries of a tile see of a panel.
struct PanelSight {
  const Head& head;
  const Segment& segment;
  QueryTile tile;
  Panel panel;

  bool Any() const {
    if (panel.packed) return head.positions[panel.first] + head.window <= tile.last();
    return panel.first <= tile.last() && tile.begin < panel.first + kPanelKeys - 1 + head.window;
  }
  bool All() const {
    const int64_t last = panel.first + kPanelKeys - 1;
    if (!panel.packed) return last <= tile.begin && tile.last() < panel.first + head.window;
    return last < segment.num_packed && head.positions[last] + head.window <= tile.begin;
  }
  // Places of the tile from which key r is seen, those behind its last query included.
  uint32_t PlacesFor(int64_t r) const {
    const int64_t key = panel.first + r;
    if (!panel.packed) return BitRange(key - tile.begin, key + head.window - tile.begin);
    if (key >= segment.num_packed) return 0;
    return BitRange(head.positions[key] + head.window - tile.begin, 32);
  }
  // Queries that see key r.
  uint32_t QueriesFor(int64_t r) const { return PlacesFor(r) & BitRange(0, tile.size); }
};

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
