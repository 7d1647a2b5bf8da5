// Forward: tiles of 32 queries; for spans of up to kSpanPanels panels first all probabilities, then
// P V with the output tiles in registers.
//
// There is no running maximum: P = 2^(score * scale * log2(e) - shift) with shift = 0. bf16 and
// fp32 have the same exponents, so nothing is lost while the sum of a row stays in [2^-60, 2^100];
// otherwise the tile is done again with its exact row maxima as shift. Outputs are never rescaled.
#include "kernels/cpu/amx/panels.h"
#include "kernels/cpu/amx/segments.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {
namespace {

// Panels per span. P of a span (32 KB) stays in the L1 cache.
constexpr int64_t kSpanPanels = 16;
// Panels whose scores are computed before their probabilities.
constexpr int64_t kScoredPanels = 2;

// Arrays of one task, in its workspace.
struct Arrays {
  Arrays(int64_t seq_length, int64_t head_dim, std::byte* begin)
      : steps(Steps(head_dim)), workspace(begin) {
    rows = workspace.Bytes(FormBytes(steps));
    queries = workspace.Bytes(FormBytes(steps));
    scores = workspace.Floats(kScoredPanels * 4 * kTileFloats);
    probabilities = workspace.Bytes(2 * kSpanPanels * kTileBytes);
    sums = workspace.Floats(GradientFloats(steps));
    const int64_t max_panels = PanelStore::MaxPanels(seq_length, kTileQueries);
    panels = workspace.Bytes(max_panels * panel_bytes());
    marks = workspace.Bytes(max_panels);
  }
  // K as columns, then V interleaved.
  int64_t panel_bytes() const { return 2 * FormBytes(steps); }

  int64_t steps;
  Workspace workspace;
  std::byte* rows;           // rows of a panel on their way to another form
  std::byte* queries;        // Q as rows
  float* scores;             // [kScoredPanels][2][2] tiles
  std::byte* probabilities;  // P: [2][kSpanPanels] tiles
  float* sums;               // sum of p v: [2][2 * steps] tiles
  std::byte* panels;
  std::byte* marks;  // PanelStore's
};

class Sweep {
 public:
  explicit Sweep(const ForwardTask& task)
      : task_(task),
        head_(task.head),
        arrays_(task.head.seq_length, task.head.head_dim, task.segment.workspace),
        store_(task.head, task.segment, kTileQueries, arrays_.panel_bytes(), arrays_.panels,
               arrays_.marks),
        scale_(kLog2E * ScoreScale(task.head)) {}

  void Run() {
    const Segment& segment = task_.segment;
    int64_t next_packed = 0;
    int64_t next_band = PanelStore::FirstBand(head_, segment) * kPanelKeys;
    for (int64_t begin = segment.begin; begin < segment.end; begin += kTileQueries) {
      const QueryTile tile = {begin, Smaller(kTileQueries, segment.end - begin)};
      const int64_t far = FarCount(head_, tile.last());
      for (; next_packed < far; next_packed += kPanelKeys) PackPanel({true, next_packed});
      for (; next_band <= tile.last(); next_band += kPanelKeys) PackPanel({false, next_band});
      AttendTile(tile);
    }
  }

 private:
  void PackPanel(const Panel& panel) {
    std::byte* to = store_[panel];
    PackRows(PanelRows{head_, task_.segment, panel, 1}, head_.head_dim, arrays_.rows);
    PackColumns(arrays_.rows, arrays_.steps, to);
    store_.Mark(panel,
                PackRows(PanelRows{head_, task_.segment, panel, 2}, head_.head_dim, arrays_.rows));
    PackInterleaved(arrays_.rows, arrays_.steps, to + FormBytes(arrays_.steps), 2 * kTileBytes);
  }

  void AttendTile(const QueryTile& tile) {
    const auto query = [&](int64_t r) {
      return r < tile.size ? QkvRow(head_, tile.begin + r, 0) : nullptr;
    };
    PackRows(query, head_.head_dim, arrays_.queries);
    for (int64_t r = 0; r < kTileQueries; ++r) {
      far_[r] = FarCount(head_, Smaller(tile.begin + r, tile.last()));
      shift_[r] = 0.0f;
    }
    PrefetchRows(tile);
    const PanelList list(head_, tile.begin, tile.last() + 1);
    SweepPanels(tile, list);
    if (!TotalsInRange()) {
      FindRowMaxima(tile, list);
      SweepPanels(tile, list);
    }
    StoreTile(tile);
  }

  void SweepPanels(const QueryTile& tile, const PanelList& list) {
    for (int64_t r = 0; r < kTileQueries; ++r) {
      total_[r] = _mm512_setzero_ps();
      rounded_total_[r] = _mm512_setzero_ps();
    }
    for (int64_t begin = 0; begin < list.size(); begin += kSpanPanels) {
      const int64_t end = Smaller(begin + kSpanPanels, list.size());
      for (int64_t i = begin; i < end; i += kScoredPanels) {
        std::byte* to = arrays_.probabilities + (i - begin) * kTileBytes;
        if (i + 1 < end) {
          AddProbabilities<2>(tile, list, i, to);
        } else {
          AddProbabilities<1>(tile, list, i, to);
        }
      }
      AddValues(tile, list, begin, end);
    }
  }

  // Keys of a panel that row r sees.
  uint32_t VisibleKeys(const QueryTile& tile, const Panel& panel, int64_t r) const {
    if (panel.packed) return BitRange(0, far_[r] - panel.first);
    const int64_t query = Smaller(tile.begin + r, tile.last());
    return BitRange(query - head_.window + 1 - panel.first, query + 1 - panel.first);
  }
  bool AllVisible(const QueryTile& tile, const Panel& panel) const {
    if (panel.packed) return far_[0] >= panel.first + kPanelKeys;
    return tile.last() - head_.window < panel.first && panel.first + kPanelKeys <= tile.begin + 1;
  }

  void Score(const PanelList& list, int64_t i, int64_t at) {
    Multiply<Start::kZero>(arrays_.steps, arrays_.queries, store_[list[i]], arrays_.scores,
                           arrays_.scores + at * 4 * kTileFloats);
  }

  // P of panels i ... i + kPanels - 1 of the list, and its share of the sums of rows.
  template <int kPanels>
  void AddProbabilities(const QueryTile& tile, const PanelList& list, int64_t i, std::byte* to) {
    Panel panels[kPanels];
    bool all_visible = true;
    for (int p = 0; p < kPanels; ++p) {
      panels[p] = list[i + p];
      all_visible = all_visible && AllVisible(tile, panels[p]);
      Score(list, i + p, p);
    }
    for (int64_t r = 0; r < kTileQueries; ++r) {
      std::byte* row = to + r / 16 * kSpanPanels * kTileBytes + r % 16 * 64;
      if (all_visible) {
        ExponentiateRow<kPanels, false>(r, nullptr, row);
      } else {
        uint32_t visible[kPanels];
        for (int p = 0; p < kPanels; ++p) visible[p] = VisibleKeys(tile, panels[p], r);
        ExponentiateRow<kPanels, true>(r, visible, row);
      }
    }
  }

  // The outputs of the tile's queries, and the inputs that the next tile adds.
  void PrefetchRows(const QueryTile& tile) const {
    const int64_t end = Smaller(tile.last() + 1, task_.segment.end - kTileQueries);
    for (int64_t query = tile.begin; query < end; ++query) {
      if (!head_.stream) Prefetch(task_.out + query * task_.out_stride, head_.head_dim);
      Prefetch(QkvRow(head_, query + kTileQueries, 0), 3 * head_.head_dim);
    }
  }

  template <int kPanels, bool kMasked>
  void ExponentiateRow(int64_t r, const uint32_t* visible, std::byte* to) {
    const __m512 scale = _mm512_set1_ps(scale_);
    const __m512 shift = _mm512_set1_ps(shift_[r]);
    const float* scores = arrays_.scores + r / 16 * 2 * kTileFloats + r % 16 * 16;
    __m512 total = total_[r];
    __m512 rounded_total = rounded_total_[r];
    for (int p = 0; p < kPanels; ++p) {
      const float* from = scores + p * 4 * kTileFloats;
      __m512 low = Exp2(_mm512_fmsub_ps(_mm512_load_ps(from), scale, shift));
      __m512 high = Exp2(_mm512_fmsub_ps(_mm512_load_ps(from + kTileFloats), scale, shift));
      if constexpr (kMasked) {
        low = _mm512_maskz_mov_ps(static_cast<__mmask16>(visible[p]), low);
        high = _mm512_maskz_mov_ps(static_cast<__mmask16>(visible[p] >> 16), high);
      }
      const __m512i rounded = RoundPair(low, high);
      StoreVector(to + p * kTileBytes, rounded);
      total = _mm512_add_ps(total, _mm512_add_ps(low, high));
      rounded_total =
          _mm512_add_ps(rounded_total, _mm512_add_ps(WidenEven(rounded), WidenOdd(rounded)));
    }
    total_[r] = total;
    rounded_total_[r] = rounded_total;
  }

  // Sums (+)= P V over panels [begin, end) of the list.
  void AddValues(const QueryTile& tile, const PanelList& list, int64_t begin, int64_t end) {
    const std::byte* probabilities[kSpanPanels];
    const std::byte* values[kSpanPanels];
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) {
      if (!store_.IsFinite(list[i])) continue;
      probabilities[count] = arrays_.probabilities + (i - begin) * kTileBytes;
      values[count++] = store_[list[i]] + FormBytes(arrays_.steps);
    }
    for (int64_t pair = 0; pair < arrays_.steps; ++pair) {
      AddProducts(
          count, [&](int64_t k) { return probabilities[k]; }, kSpanPanels * kTileBytes,
          [&](int64_t k) { return values[k] + pair * 2 * kTileBytes; }, begin > 0,
          arrays_.sums + pair * 2 * kTileFloats, 2 * arrays_.steps * kTileFloats);
    }
    if (store_.AllFinite()) return;
    for (int64_t i = begin; i < end; ++i) {
      if (store_.IsFinite(list[i])) continue;
      AddVisibleValues(tile, list[i], arrays_.probabilities + (i - begin) * kTileBytes);
    }
  }

  // The same for one panel, pair by pair.
  void AddVisibleValues(const QueryTile& tile, const Panel& panel, const std::byte* p) {
    for (int64_t r = 0; r < kTileQueries; ++r) {
      AddVisibleRows(VisibleKeys(tile, panel, r),
                     p + r / 16 * kSpanPanels * kTileBytes + r % 16 * 64,
                     PanelRows{head_, task_.segment, panel, 2}, head_.head_dim,
                     arrays_.sums + GradientOffset(r, arrays_.steps));
    }
  }

  bool TotalsInRange() {
    __mmask16 in_range = 0xffff;
    for (int64_t r = 0; r < kTileQueries; r += 16) {
      const __m512 totals = SumsOfRows(total_ + r);
      in_range &= _mm512_cmp_ps_mask(totals, _mm512_set1_ps(0x1p-60f), _CMP_GT_OQ);
      in_range &= _mm512_cmp_ps_mask(totals, _mm512_set1_ps(0x1p100f), _CMP_LT_OQ);
    }
    return in_range == 0xffff;
  }

  // shift = the largest visible score of each row, in units of log2.
  void FindRowMaxima(const QueryTile& tile, const PanelList& list) {
    __m512 maximum[kTileQueries];
    for (__m512& lanes : maximum) lanes = _mm512_set1_ps(-__builtin_inff());
    for (int64_t i = 0; i < list.size(); ++i) {
      Score(list, i, 0);
      for (int64_t r = 0; r < kTileQueries; ++r) {
        const float* from = arrays_.scores + r / 16 * 2 * kTileFloats + r % 16 * 16;
        const uint32_t visible = VisibleKeys(tile, list[i], r);
        maximum[r] = _mm512_mask_max_ps(maximum[r], static_cast<__mmask16>(visible), maximum[r],
                                        _mm512_load_ps(from));
        maximum[r] = _mm512_mask_max_ps(maximum[r], static_cast<__mmask16>(visible >> 16),
                                        maximum[r], _mm512_load_ps(from + kTileFloats));
      }
    }
    for (int64_t r = 0; r < kTileQueries; ++r) {
      alignas(64) float lanes[16];
      _mm512_store_ps(lanes, maximum[r]);
      float largest = lanes[0];
      for (const float lane : lanes) largest = lane > largest ? lane : largest;
      shift_[r] = largest * scale_;
    }
  }

  // P was rounded, so its rounded sum is the normaliser: a single visible key gives v exactly. lse
  // is that of the unrounded probabilities.
  void StoreTile(const QueryTile& tile) {
    alignas(64) float factors[kTileQueries];
    alignas(64) float totals[kTileQueries];
    for (int64_t r = 0; r < kTileQueries; r += 16) {
      const __m512 rounded = SumsOfRows(rounded_total_ + r);
      _mm512_store_ps(factors + r, _mm512_div_ps(_mm512_set1_ps(1.0f), rounded));
      _mm512_store_ps(totals + r, SumsOfRows(total_ + r));
    }
    for (int64_t r = 0; r < tile.size; ++r) {
      StoreRounded(head_, arrays_.sums + GradientOffset(r, arrays_.steps), factors[r],
                   task_.out + (tile.begin + r) * task_.out_stride);
      task_.lse[tile.begin + r] = __builtin_fmaf(shift_[r], kLn2, __builtin_logf(totals[r]));
    }
  }

  const ForwardTask& task_;
  const Head& head_;
  Arrays arrays_;
  PanelStore store_;
  float scale_;
  int64_t far_[kTileQueries];
  float shift_[kTileQueries];
  __m512 total_[kTileQueries];          // lanes of the row's sum of p
  __m512 rounded_total_[kTileQueries];  // the same of p rounded to bf16
};

}  // namespace

void ForwardSegment(const ForwardTask& task) {
  const TileScope tiles;
  Sweep(task).Run();
}

int64_t ForwardBytes(int64_t seq_length, int64_t head_dim) {
  return Arrays(seq_length, head_dim, nullptr).workspace.used();
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
