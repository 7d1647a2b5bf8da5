// Forward: softmax over the chunks that a tile of queries sees.
//
// P = 2^(s + shift) with a shift of 0 is as exact as one relative to the largest score s, because
// fp32 is relative, as long as the sum of a row stays in a range that neither overflows nor loses
// its terms. It nearly always does; otherwise the tile is done again with the exact maxima. So
// there is no running maximum, and sums are never rescaled.
#include "kernels/cpu/isa/attention_pairs.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

constexpr float kSmallestTotal = 0x1p-60f;  // terms below 2^-125.5 vanish
constexpr float kLargestTotal = 0x1p60f;    // values may be this large too

// Of the next tile's rows of q, k or v, those that are asked for beside one block of products.
constexpr int kPrefetchParts = 3;

// Arrays of one task, in its workspace.
struct Arrays {
  explicit Arrays(const AttentionForwardTask& task) : prefetch(kPrefetchParts) {
    prefetch.AddQkv(task.head);
    Workspace workspace(task.segment.workspace);
    const int64_t dim = task.head.padded_dim;
    rows = workspace.Take(kChunkKeys * dim);
    queries = workspace.Take(kTileQueries * dim);
    sums = workspace.Take(kTileQueries * dim);
    p = workspace.Take(kTileQueries * kChunkKeys);
    chunk_floats = 2 * kChunkKeys * dim;
    chunks = workspace.Take(NumSlots(task.segment) * chunk_floats);
    not_finite = workspace.Take(NumSlots(task.segment));
  }
  float* keys(int64_t slot) const { return chunks + slot * chunk_floats; }
  float* values(int64_t slot) const { return keys(slot) + chunk_floats / 2; }

  float* rows;        // [kChunkKeys, RowCells]: rows on their way to another form
  float* queries;     // [RowCells, kTileQueries]
  float* sums;        // [kTileQueries, dim]: sum of p v
  float* p;           // [kTileQueries, kChunkKeys / kPair]
  float* chunks;      // per slot: K^T panels, then V [kChunkKeys / kPair, dim]
  float* not_finite;  // per slot: 1 where some number of V is not finite, else 0
  int64_t chunk_floats;
  // P = 2^(score * scale * log2(e) + shift)
  float shift[kTileQueries];
  float totals[kTileQueries][kLanes];  // sum of P by lane
  float maximum[kTileQueries];         // of the scores
  RowPrefetch prefetch;
};

// To places offset, offset + 1, ... of a chunk.
void LoadKeys(const AttentionHead& head, const KeyRange& keys, int64_t slot, int64_t offset,
              const Arrays& arrays) {
  LoadKeyRows(head, keys, 1, arrays.rows);
  TransposeKeys(head, keys, arrays.rows, arrays.keys(slot) + offset * RowCells(head));
  float* paired = arrays.values(slot) + offset / kPair * head.padded_dim;
  float* values = RowsToPair(paired, arrays.rows);
  const bool finite = LoadKeyRows(head, keys, 2, values);
  if (offset == 0) arrays.not_finite[slot] = 0.0f;
  if (!finite) arrays.not_finite[slot] = 1.0f;
  PairRows(values, keys.padded_size(), head.padded_dim, paired);
}

void LoadQueries(const AttentionHead& head, const QueryTile& tile, Arrays& arrays) {
  LoadRows(
      head, tile.size, [&](int64_t r) { return QkvRow(head, tile.begin + r, 0); }, arrays.rows);
  const int64_t cells = RowCells(head);
  ZeroFill(arrays.rows + tile.size * cells, (kTileQueries - tile.size) * cells);
  Transpose(arrays.rows, kTileQueries, cells, arrays.queries, kTileQueries);
}

// P of a chunk and its share of the sums.
void AddChunk(const AttentionHead& head, int64_t slot, const VisibleKeys& visible, float scale,
              Arrays& arrays) {
  const Vec factor = Set(scale);
  MultiplyScores(
      head, visible, arrays.queries, arrays.keys(slot), arrays.prefetch,
      [](int64_t) { return Zero(); },
      [&]<int kVecs, typename Mode>(int64_t r, int64_t key, const Vec* scores, VecCount<kVecs>,
                                    Mode) {
        const Vec shift = Set(arrays.shift[r]);
        Vec total = Load(arrays.totals[r]);
        SEPIA_UNROLL
        for (int v = 0; v < kVecs; ++v) {
          const int64_t at = key + v * kLanes;
          Vec p = Exp2(Fma(scores[v], factor, shift));
          if constexpr (Mode::kMasked) {
            p = KeepVisible(at, visible.low[r], visible.high[r], p, Zero());
          }
          total = total + p;
          StoreNumbers(Numbers(arrays.p) + r * kChunkKeys + at, p);
        }
        Store(arrays.totals[r], total);
      });
  if (arrays.not_finite[slot] > 0.0f) {
    return AddVisibleKeys(visible, Numbers(arrays.p), arrays.values(slot), head.padded_dim,
                          arrays.sums);
  }
  constexpr int kRowCells = kChunkKeys / kPair;
  ForEachBlock(visible, [&](int64_t first, const BlockSpan& span) {
    if (span.empty()) return;
    arrays.prefetch.Some();
    const int64_t low = span.low / kPair;
    const int64_t high = (span.high + kPair - 1) / kPair;
    AddProduct<kRowCells, 1>(high - low, arrays.p + first * kRowCells + low,
                             arrays.values(slot) + low * head.padded_dim, head.padded_dim,
                             arrays.sums + first * head.padded_dim);
  });
}

// Every query's largest score so far.
void RaiseMaximum(const AttentionHead& head, int64_t slot, const VisibleKeys& visible,
                  Arrays& arrays) {
  const Vec hidden = Set(-__builtin_inff());
  MultiplyScores(
      head, visible, arrays.queries, arrays.keys(slot), arrays.prefetch,
      [](int64_t) { return Zero(); },
      [&]<int kVecs, typename Mode>(int64_t r, int64_t key, const Vec* scores, VecCount<kVecs>,
                                    Mode) {
        Vec maximum = Set(arrays.maximum[r]);
        for (int v = 0; v < kVecs; ++v) {
          const Vec seen =
              KeepVisible(key + v * kLanes, visible.low[r], visible.high[r], scores[v], hidden);
          maximum = Max(seen, maximum);
        }
        arrays.maximum[r] = MaxOfLanes(maximum);
      });
}

void AddTile(const AttentionHead& head, const AttentionSegment& segment, const QueryTile& tile,
             float scale, Arrays& arrays) {
  ZeroFill(arrays.sums, kTileQueries * head.padded_dim);
  ZeroFill(arrays.totals[0], kTileQueries * kLanes);
  ForEachChunk(head, segment, tile, [&](int64_t slot, const VisibleKeys& visible) {
    AddChunk(head, slot, visible, scale, arrays);
  });
}

bool SumsAreInRange(const QueryTile& tile, const Arrays& arrays) {
  for (int64_t r = 0; r < tile.size; ++r) {
    const float total = Sum(Load(arrays.totals[r]));
    if (!(total >= kSmallestTotal && total <= kLargestTotal)) return false;
  }
  return true;
}

void ComputeTile(const AttentionHead& head, const AttentionSegment& segment, const QueryTile& tile,
                 float scale, Arrays& arrays) {
  for (float& shift : arrays.shift) shift = 0.0f;
  AddTile(head, segment, tile, scale, arrays);
  if (SumsAreInRange(tile, arrays)) return;
  for (float& maximum : arrays.maximum) maximum = -__builtin_inff();
  ForEachChunk(head, segment, tile, [&](int64_t slot, const VisibleKeys& visible) {
    RaiseMaximum(head, slot, visible, arrays);
  });
  for (int64_t r = 0; r < tile.size; ++r) arrays.shift[r] = -scale * arrays.maximum[r];
  AddTile(head, segment, tile, scale, arrays);
}

void StoreTile(const AttentionForwardTask& task, const QueryTile& tile, const Arrays& arrays) {
  const AttentionHead& head = task.head;
  for (int64_t r = 0; r < tile.size; ++r) {
    const float total = Sum(Load(arrays.totals[r]));
    StoreRow(head, arrays.sums + r * head.padded_dim, 1.0f / total,
             RowAt(task.out, tile.begin + r, task.out_row_bytes));
    task.lse[tile.begin + r] = __builtin_fmaf(-arrays.shift[r], kLn2, __builtin_logf(total));
  }
}

}  // namespace

void ForwardSegment(const AttentionForwardTask& task) {
  const AttentionHead& head = task.head;
  const AttentionSegment& segment = task.segment;
  const float scale = kLog2E * ScoreScale(head);
  Arrays arrays(task);
  int64_t next_packed = 0;
  int64_t next_chunk = FirstBandChunk(head, segment);
  for (int64_t begin = segment.begin; begin < segment.end; begin += kTileQueries) {
    const QueryTile tile = {begin, Smaller(kTileQueries, segment.end - begin)};
    for (; next_chunk * kChunkKeys < tile.begin + tile.size; ++next_chunk) {
      LoadKeys(head, BandChunk(head, next_chunk), next_chunk % segment.ring_chunks, 0, arrays);
    }
    LoadPackedKeys(head, segment, tile, next_packed,
                   [&](const KeyRange& keys, int64_t slot, int64_t offset) {
                     LoadKeys(head, keys, slot, offset, arrays);
                   });
    arrays.prefetch.Start(segment, tile);
    LoadQueries(head, tile, arrays);
    ComputeTile(head, segment, tile, scale, arrays);
    StoreTile(task, tile, arrays);
  }
  _mm_sfence();
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
