// Backward: five products per tile of queries and panel of keys, with keys as rows and queries as
// lanes, so that lse and D_i are vectors and every mask is one interval of queries per key:
//
//   S^T = K Q^T, P^T = 2^(scale log2(e) S^T - log2(e) lse), dP^T - D_i = V dO^T (from -D_i),
//   dS^T = P^T (dP^T - D_i)
//   dV += P^T dO, dK += scale dS^T Q, dQ^T += scale K^T dS^T  (FlashAttention-2, algorithm 2)
//
// P^T and dS^T leave the vector unit as A tiles; for dQ^T pairs of rows are interleaved to B tiles,
// which permutes 32 queries. Sums of many terms stay in tile registers: dQ^T over a span of panels,
// dK and dV over a group of tiles.
#include "kernels/cpu/amx/key_gradients.h"
#include "kernels/cpu/amx/pair_by_pair.h"
#include "kernels/cpu/amx/segments.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {
namespace {

constexpr int64_t kGroupBytes = BackwardArrays::kPanelGroupBytes;

class Sweep {
 public:
  explicit Sweep(const BackwardTask& task)
      : task_(task),
        head_(task.head),
        arrays_(task.head.seq_length, task.head.head_dim, task.segment.workspace),
        steps_(arrays_.steps),
        store_(task.head, task.segment, kGroupQueries, KeyPanel::Bytes(steps_), arrays_.panels,
               arrays_.marks),
        scale_(ScoreScale(task.head)) {}

  void Run() {
    const Segment& segment = task_.segment;
    int64_t next_packed = 0;
    int64_t next_key = PanelStore::FirstBand(head_, segment) * kPanelKeys;
    int64_t oldest_key = next_key;
    Part part = {0, segment.begin, 0};
    for (int64_t p = 0; p < task_.num_parts; ++p) {
      part = {part.end, task_.parts[p].end, task_.parts[p].num_packed};
      for (int64_t begin = part.begin; begin < part.end; begin += kGroupQueries) {
        const int64_t end = Smaller(begin + kGroupQueries, part.end);
        const int64_t far = FarCount(head_, end - 1);
        for (; next_packed < far; next_packed += kPanelKeys) PackPanel({true, next_packed});
        for (; next_key < end; next_key += kPanelKeys) PackPanel({false, next_key});
        SweepGroup(begin, end);
        // Only when query end - 1 sees all its keys as packed ones: then their panels are packed.
        for (; oldest_key + kPanelKeys + head_.window <= end; oldest_key += kPanelKeys) {
          FlushBandPanel(task_, part, store_, oldest_key);
        }
      }
      FinishPart(task_, part, store_, oldest_key, next_key);
    }
  }

 private:
  KeyPanel PanelAt(const Panel& panel) const { return {store_[panel], steps_}; }

  void PackPanel(const Panel& panel) {
    const KeyPanel to = PanelAt(panel);
    store_.Mark(panel,
                PackRows(PanelRows{head_, task_.segment, panel, 1}, head_.head_dim, to.key_rows()));
    PackRows(PanelRows{head_, task_.segment, panel, 2}, head_.head_dim, to.value_rows());
    PackInterleaved(to.key_rows(), steps_, to.key_columns(), 2 * kTileBytes);
    PackColumns(to.key_columns(), steps_, to.key_columns());
  }

  // Queries [begin, end) against every panel that they see, span by span.
  void SweepGroup(int64_t begin, int64_t end) {
    const int64_t num_tiles = CeilDiv(end - begin, kTileQueries);
    group_begin_ = begin;
    group_end_ = end;
    group_is_finite_ = true;
    for (int64_t t = 0; t < num_tiles; ++t) PackQueries(TileAt(t), t);
    const PanelList list(head_, begin, end);
    const int64_t spans = CeilDiv(list.size(), kSpanPanels);
    const int64_t span_panels = CeilDiv(list.size(), spans);
    next_prefetch_ = begin;
    prefetch_rows_ = CeilDiv(end - begin, num_tiles * spans);
    for (int64_t t = 0; t < num_tiles; ++t) tile_started_[t] = false;
    for (int64_t first = 0; first < list.size(); first += span_panels) {
      const int64_t last = Smaller(first + span_panels, list.size());
      ForgetTiles(last - first);
      for (int64_t t = 0; t < num_tiles; ++t) {
        PrefetchRows();
        AddTile(TileAt(t), t, list, first, last);
      }
      AddKeyGradients(list, first, last);
    }
    for (int64_t t = 0; t < num_tiles; ++t) StoreQueryGradients(TileAt(t), t);
  }

  // Tile t of the group.
  QueryTile TileAt(int64_t t) const {
    const int64_t first = group_begin_ + t * kTileQueries;
    return {first, Smaller(kTileQueries, group_end_ - first)};
  }

  // The inputs of the next group and the gradients of this one, a few rows at a time.
  void PrefetchRows() {
    const int64_t end = Smaller(next_prefetch_ + prefetch_rows_, group_end_);
    for (; next_prefetch_ < end; ++next_prefetch_) {
      if (!head_.stream) {
        Prefetch(GradientRow(head_, task_.dqkv, next_prefetch_, 0), 3 * head_.head_dim);
      }
      const int64_t next = next_prefetch_ + kGroupQueries;
      if (next >= task_.segment.end) continue;
      Prefetch(QkvRow(head_, next, 0), 3 * head_.head_dim);
      Prefetch(task_.out + next * task_.out_stride, head_.head_dim);
      Prefetch(task_.dout + next * task_.out_stride, head_.head_dim);
    }
  }

  void PackQueries(const QueryTile& tile, int64_t t) {
    const auto dout_row = [&](int64_t r) {
      return r < tile.size ? task_.dout + (tile.begin + r) * task_.out_stride : nullptr;
    };
    dout_is_finite_[t] = PackRows(dout_row, head_.head_dim, arrays_.rows);
    PackColumns(arrays_.rows, steps_, arrays_.DoutColumns(t));
    const int64_t pair_stride = kGroupTiles * 2 * kTileBytes;
    const int64_t offset = arrays_.InterleavedOffset(t, 0);
    PackInterleaved(arrays_.rows, steps_, arrays_.douts + offset, pair_stride);
    SetRowStatistics(tile, t);
    const auto query_row = [&](int64_t r) {
      return r < tile.size ? QkvRow(head_, tile.begin + r, 0) : nullptr;
    };
    query_is_finite_[t] = PackRows(query_row, head_.head_dim, arrays_.rows);
    group_is_finite_ = group_is_finite_ && dout_is_finite_[t] && query_is_finite_[t];
    PackColumns(arrays_.rows, steps_, arrays_.QueryColumns(t));
    PackInterleaved(arrays_.rows, steps_, arrays_.queries + offset, pair_stride);
  }

  // lse and -D_i = -sum(dO * O); arrays_.rows holds dO.
  void SetRowStatistics(const QueryTile& tile, int64_t t) {
    float* lse = arrays_.lse + t * kTileQueries;
    for (int64_t half = 0; half < kTileQueries; half += 16) {
      __m512 products[16];
      for (int64_t i = 0; i < 16; ++i) {
        products[i] =
            tile.begin + half + i <= tile.last() ? DotDoutOut(tile, half + i) : _mm512_setzero_ps();
      }
      const __m512 minus_d = _mm512_sub_ps(_mm512_setzero_ps(), SumsOfRows(products));
      _mm512_store_ps(arrays_.minus_d + t * kTileQueries + half, minus_d);
      const auto mask = static_cast<__mmask16>(BitRange(0, tile.size - half));
      const __m512 natural = _mm512_maskz_loadu_ps(mask, task_.lse + tile.begin + half);
      _mm512_store_ps(lse + half, _mm512_mul_ps(natural, _mm512_set1_ps(kLog2E)));
    }
  }

  // Lanes whose sum is dO_i O_i.
  __m512 DotDoutOut(const QueryTile& tile, int64_t r) const {
    const BFloat16* out = task_.out + (tile.begin + r) * task_.out_stride;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t step = 0; step < steps_; ++step) {
      const __m512i a = LoadVector(arrays_.rows + RowOffset(r, step, steps_));
      const __m512i b = _mm512_maskz_loadu_epi16(ChunkMask(head_.head_dim, step), out + 32 * step);
      sum = _mm512_fmadd_ps(WidenEven(a), WidenEven(b), sum);
      sum = _mm512_fmadd_ps(WidenOdd(a), WidenOdd(b), sum);
    }
    return sum;
  }

  PanelSight Sight(const QueryTile& tile, const Panel& panel) const {
    return {head_, task_.segment, tile, panel};
  }

  // Tiles of the group that see a panel of the span: [first_tile_, end_tile_).
  void ForgetTiles(int64_t span_size) {
    for (int64_t i = 0; i < span_size; ++i) {
      first_tile_[i] = kGroupTiles;
      end_tile_[i] = 0;
    }
  }

  // P^T, dS^T and the share of dQ^T of tile t of the group, for panels [first, last) of the list.
  void AddTile(const QueryTile& tile, int64_t t, const PanelList& list, int64_t first,
               int64_t last) {
    const std::byte* key_columns[kSpanPanels];
    int64_t num_visible = 0;
    int64_t num_products = 0;  // of the visible ones, those multiplied as tiles
    for (int64_t i = first; i < last; ++i) {
      const Panel panel = list[i];
      const PanelSight sight = Sight(tile, panel);
      if (!sight.Any()) continue;
      const KeyPanel keys = PanelAt(panel);
      Multiply<Start::kZero>(steps_, keys.key_rows(), arrays_.QueryColumns(t), arrays_.scores,
                             arrays_.scores);
      Multiply<Start::kRow>(steps_, keys.value_rows(), arrays_.DoutColumns(t),
                            arrays_.minus_d + t * kTileQueries, arrays_.dp);
      const int64_t at = (i - first) * kGroupBytes + t * kTileBytes;
      std::byte* ds = arrays_.ds + num_products * 2 * kTileBytes;
      if (sight.All()) {
        AddProbabilities<false>(sight, t, at, ds);
      } else {
        AddProbabilities<true>(sight, t, at, ds);
      }
      first_tile_[i - first] = Smaller(first_tile_[i - first], t);
      end_tile_[i - first] = t + 1;
      ++num_visible;
      if (store_.IsFinite(panel)) key_columns[num_products++] = keys.key_columns();
    }
    if (num_visible == 0) return;
    for (int64_t pair = 0; pair < steps_; ++pair) {
      AddProducts(
          num_products, [&](int64_t k) { return key_columns[k] + pair * 2 * kTileBytes; },
          kTileBytes, [&](int64_t k) { return arrays_.ds + k * 2 * kTileBytes; }, tile_started_[t],
          arrays_.Dq(t) + pair * 4 * kTileFloats, 2 * kTileFloats);
    }
    tile_started_[t] = true;
    if (store_.AllFinite()) return;
    for (int64_t i = first; i < last; ++i) {
      const PanelSight sight = Sight(tile, list[i]);
      if (store_.IsFinite(list[i]) || !sight.Any()) continue;
      AddVisibleKeys(sight, arrays_.ds_columns + (i - first) * kGroupBytes + t * kTileBytes,
                     arrays_.Dq(t));
    }
  }

  // P^T and dS^T of a panel from arrays_.scores and arrays_.dp: A tiles at byte `at` of p_columns
  // and ds_columns, B tiles to `ds`.
  template <bool kMasked>
  void AddProbabilities(const PanelSight& sight, int64_t t, int64_t at, std::byte* ds) {
    const __m512 scale = _mm512_set1_ps(scale_ * kLog2E);
    const __m512 lse_low = _mm512_load_ps(arrays_.lse + t * kTileQueries);
    const __m512 lse_high = _mm512_load_ps(arrays_.lse + t * kTileQueries + 16);
    for (int64_t r = 0; r < kPanelKeys; r += 2) {
      __m512i ds_rows[2];
      for (int64_t odd = 0; odd < 2; ++odd) {
        const int64_t key = r + odd;
        const int64_t from = key / 16 * 2 * kTileFloats + key % 16 * 16;
        const float* scores = arrays_.scores + from;
        const float* dp = arrays_.dp + from;
        __m512 low = Exp2(_mm512_fmsub_ps(_mm512_load_ps(scores), scale, lse_low));
        __m512 high = Exp2(_mm512_fmsub_ps(_mm512_load_ps(scores + kTileFloats), scale, lse_high));
        __m512 ds_low = _mm512_mul_ps(low, _mm512_load_ps(dp));
        __m512 ds_high = _mm512_mul_ps(high, _mm512_load_ps(dp + kTileFloats));
        if constexpr (kMasked) {
          const uint32_t visible = sight.PlacesFor(key);
          const auto visible_low = static_cast<__mmask16>(visible);
          const auto visible_high = static_cast<__mmask16>(visible >> 16);
          low = _mm512_maskz_mov_ps(visible_low, low);
          high = _mm512_maskz_mov_ps(visible_high, high);
          ds_low = _mm512_maskz_mov_ps(visible_low, ds_low);
          ds_high = _mm512_maskz_mov_ps(visible_high, ds_high);
        }
        const int64_t to = at + BackwardArrays::ColumnsOffset(key);
        StoreVector(arrays_.p_columns + to, RoundPair(low, high));
        ds_rows[odd] = RoundPair(ds_low, ds_high);
        StoreVector(arrays_.ds_columns + to, ds_rows[odd]);
      }
      std::byte* pair = ds + r * 32;
      StoreVector(pair, _mm512_maskz_unpacklo_epi16(~__mmask32{0}, ds_rows[0], ds_rows[1]));
      StoreVector(pair + kTileBytes,
                  _mm512_maskz_unpackhi_epi16(~__mmask32{0}, ds_rows[0], ds_rows[1]));
    }
  }

  // dV += P^T dO, then dK += dS^T Q, for the panels of a span: one after the other, so that dO
  // or Q stays in the L1 cache.
  void AddKeyGradients(const PanelList& list, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      AddPanelGradient(i - first, arrays_.p_columns, arrays_.douts,
                       {PanelAt(list[i]).dv(), store_.IsEmpty(list[i])});
    }
    for (int64_t i = first; i < last; ++i) {
      AddPanelGradient(i - first, arrays_.ds_columns, arrays_.queries,
                       {PanelAt(list[i]).dk(), store_.IsEmpty(list[i])});
    }
    for (int64_t i = first; i < last; ++i) {
      store_.MarkFilled(list[i]);
      if (!group_is_finite_) AddVisibleTiles(list[i], i - first);
    }
  }

  struct PanelGradient {
    float* sums;
    bool empty;  // nothing has been added yet, `sums` may hold anything
  };

  void AddPanelGradient(int64_t in_span, const std::byte* columns, const std::byte* interleaved,
                        const PanelGradient& to) {
    if (!group_is_finite_) return AddFiniteTiles(in_span, columns, interleaved, to);
    const int64_t first = first_tile_[in_span];
    const int64_t count = end_tile_[in_span] - first;
    const std::byte* a = columns + in_span * kGroupBytes + first * kTileBytes;
    for (int64_t pair = 0; pair < steps_; ++pair) {
      const std::byte* b = interleaved + arrays_.InterleavedOffset(first, pair);
      AddProducts(
          count, [&](int64_t k) { return a + k * kTileBytes; }, kGroupTiles * kTileBytes,
          [&](int64_t k) { return b + k * 2 * kTileBytes; }, !to.empty,
          to.sums + pair * 2 * kTileFloats, 2 * steps_ * kTileFloats);
    }
  }

  // The same for those tiles of the group that are finite.
  void AddFiniteTiles(int64_t in_span, const std::byte* columns, const std::byte* interleaved,
                      const PanelGradient& to) {
    if (to.empty) std::memset(to.sums, 0, static_cast<size_t>(GradientFloats(steps_)) * 4);
    const bool* is_finite = interleaved == arrays_.douts ? dout_is_finite_ : query_is_finite_;
    for (int64_t t = first_tile_[in_span]; t < end_tile_[in_span]; ++t) {
      if (!is_finite[t]) continue;
      const std::byte* a = columns + in_span * kGroupBytes + t * kTileBytes;
      for (int64_t pair = 0; pair < steps_; ++pair) {
        const std::byte* b = interleaved + arrays_.InterleavedOffset(t, pair);
        AddProducts(
            1, [&](int64_t) { return a; }, kGroupTiles * kTileBytes, [&](int64_t) { return b; },
            true, to.sums + pair * 2 * kTileFloats, 2 * steps_ * kTileFloats);
      }
    }
  }

  // dV and dK of one panel from the other tiles.
  void AddVisibleTiles(const Panel& panel, int64_t in_span) {
    const KeyPanel to = PanelAt(panel);
    for (int64_t t = first_tile_[in_span]; t < end_tile_[in_span]; ++t) {
      const PanelSight sight = Sight(TileAt(t), panel);
      const int64_t at = in_span * kGroupBytes + t * kTileBytes;
      const auto dout_row = [&](int64_t r) {
        return task_.dout + (sight.tile.begin + r) * task_.out_stride;
      };
      const auto query_row = [&](int64_t r) { return QkvRow(head_, sight.tile.begin + r, 0); };
      if (!dout_is_finite_[t]) {
        AddVisibleQueries(sight, arrays_.p_columns + at, dout_row, to.dv());
      }
      if (!query_is_finite_[t]) {
        AddVisibleQueries(sight, arrays_.ds_columns + at, query_row, to.dk());
      }
    }
  }

  void StoreQueryGradients(const QueryTile& tile, int64_t t) {
    const __m512 scale = _mm512_set1_ps(scale_);
    for (int64_t pair = 0; pair < steps_; ++pair) {
      for (int64_t half = 0; half < 2; ++half) {
        const float* from = arrays_.Dq(t) + (pair * 4 + half) * kTileFloats;
        __m512i low[16];
        __m512i high[16];
        for (int64_t i = 0; i < 16; ++i) {
          low[i] = _mm512_load_si512(from + i * 16);
          high[i] = _mm512_load_si512(from + 2 * kTileFloats + i * 16);
        }
        Transpose(low);
        Transpose(high);
        for (int64_t column = 0; column < 16; ++column) {
          const int64_t r = QueryOfColumn(half, column);
          if (r >= tile.size) continue;
          const __m512i rounded =
              RoundPair(_mm512_mul_ps(_mm512_castsi512_ps(low[column]), scale),
                        _mm512_mul_ps(_mm512_castsi512_ps(high[column]), scale));
          StoreChunk(head_, GradientRow(head_, task_.dqkv, tile.begin + r, 0), pair, rounded);
        }
      }
    }
  }

  const BackwardTask& task_;
  const Head& head_;
  BackwardArrays arrays_;
  int64_t steps_;
  PanelStore store_;
  float scale_;
  int64_t first_tile_[kSpanPanels];
  int64_t end_tile_[kSpanPanels];
  int64_t group_begin_ = 0;
  int64_t group_end_ = 0;
  bool group_is_finite_ = true;  // Q and dO of the group
  bool query_is_finite_[kGroupTiles];
  bool dout_is_finite_[kGroupTiles];
  int64_t next_prefetch_ = 0;
  int64_t prefetch_rows_ = 0;
  bool tile_started_[kGroupTiles];  // whether dQ^T of a tile holds anything
};

}  // namespace

void BackwardSegment(const BackwardTask& task) {
  const TileScope tiles;
  Sweep(task).Run();
}

int64_t BackwardBytes(int64_t seq_length, int64_t head_dim) {
  return BackwardArrays(seq_length, head_dim, nullptr).workspace.used();
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
