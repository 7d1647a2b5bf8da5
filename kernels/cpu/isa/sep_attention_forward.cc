// Forward: online softmax over the chunks that a tile of queries sees.
#include "kernels/cpu/isa/attention_tiles.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

// Arrays of one task, in its workspace.
struct Arrays {
  explicit Arrays(const AttentionForwardTask& task) {
    Workspace workspace(task.segment.workspace);
    const int64_t dim = task.head.padded_dim;
    rows = workspace.Take(kChunkKeys * dim);
    queries = workspace.Take(kTileQueries * dim);
    sums = workspace.Take(kTileQueries * dim);
    scores = workspace.Take(kTileQueries * kChunkKeys);
    chunks = workspace.Take(0);
    chunk_floats = 2 * kChunkKeys * dim;
  }
  float* keys(int64_t slot) const { return chunks + slot * chunk_floats; }
  float* values(int64_t slot) const { return keys(slot) + chunk_floats / 2; }

  float* rows;     // [kChunkKeys, dim]: rows on their way to a transposed form
  float* queries;  // [dim, kTileQueries]
  float* sums;     // [kTileQueries, dim]: sum of p v
  float* scores;   // [kTileQueries, kChunkKeys]
  float* chunks;   // per slot: K^T panels, then V rows [kChunkKeys, dim]
  int64_t chunk_floats;
  float maximum[kTileQueries];  // of score * scale * log2(e), so far
  float total[kTileQueries];    // sum of 2^(score * scale * log2(e) - maximum)
};

void LoadChunk(const AttentionHead& head, const KeyRange& keys, int64_t slot,
               const Arrays& arrays) {
  LoadKeyRows(head, keys, 1, arrays.rows);
  TransposeKeys(head, keys, arrays.rows, arrays.keys(slot));
  LoadKeyRows(head, keys, 2, arrays.values(slot));
}

void LoadQueries(const AttentionHead& head, const QueryTile& tile, Arrays& arrays) {
  LoadRows(
      head, tile.size, [&](int64_t r) { return QkvRow(head, tile.begin + r, 0); }, arrays.rows);
  ZeroFill(arrays.rows + tile.size * head.padded_dim, (kTileQueries - tile.size) * head.padded_dim);
  Transpose(arrays.rows, kTileQueries, head.padded_dim, arrays.queries, kTileQueries);
  ZeroFill(arrays.sums, kTileQueries * head.padded_dim);
  for (int r = 0; r < kTileQueries; ++r) {
    arrays.maximum[r] = -__builtin_inff();
    arrays.total[r] = 0.0f;
  }
}

// Largest visible score of a row.
float RowMaximum(const float* scores, const BlockSpan& span, int32_t low, int32_t high) {
  const Vec hidden = Set(-__builtin_inff());
  Vec maximum = hidden;
  for (int32_t key = span.vector_low; key < span.vector_high; key += kLanes) {
    maximum = Max(KeepVisible(key, low, high, Load(scores + key), hidden), maximum);
  }
  return MaxOfLanes(maximum);
}

// Scores of a row become 2^(scale * score - maximum), zero where hidden; returns their sum.
float ExponentiateRow(float* scores, const BlockSpan& span, int32_t low, int32_t high, float scale,
                      float maximum) {
  const Vec factor = Set(scale);
  const Vec shift = Set(-maximum);
  Vec total = Zero();
  for (int32_t key = span.vector_low; key < span.vector_high; key += kLanes) {
    const Vec p = KeepVisible(key, low, high, Exp2(Fma(Load(scores + key), factor, shift)), Zero());
    total = total + p;
    Store(scores + key, p);
  }
  return Sum(total);
}

void ScaleRow(float* row, int64_t size, float factor) {
  for (int64_t d = 0; d < size; d += kLanes) Store(row + d, Load(row + d) * Set(factor));
}

float Exp2OfOne(float x) {
  float y[kLanes];
  Store(y, Exp2(Set(x)));
  return y[0];
}

// One row of scores to probabilities relative to the running maximum.
void SoftmaxRow(const AttentionHead& head, const VisibleKeys& visible, const BlockSpan& span,
                int64_t query, float scale, Arrays& arrays) {
  float* scores = arrays.scores + query * kChunkKeys;
  const int32_t low = visible.low[query];
  const int32_t high = visible.high[query];
  if (low >= high) {
    for (int32_t key = span.vector_low; key < span.vector_high; key += kLanes) {
      Store(scores + key, Zero());
    }
    return;
  }
  const float maximum = scale * RowMaximum(scores, span, low, high);
  if (maximum > arrays.maximum[query]) {
    const float shrink = Exp2OfOne(arrays.maximum[query] - maximum);
    arrays.maximum[query] = maximum;
    arrays.total[query] *= shrink;
    ScaleRow(arrays.sums + query * head.padded_dim, head.padded_dim, shrink);
  }
  arrays.total[query] += ExponentiateRow(scores, span, low, high, scale, arrays.maximum[query]);
}

void AddChunk(const AttentionHead& head, const QueryTile& tile, int64_t slot,
              const VisibleKeys& visible, float scale, Arrays& arrays) {
  for (int64_t first = 0; first < tile.size; first += kTileRows) {
    const BlockSpan span(visible, tile, first);
    if (span.empty()) continue;
    float* scores = arrays.scores + first * kChunkKeys;
    BlockScores(head, span, arrays.queries + first, arrays.keys(slot), scores);
    const int64_t end = Smaller(first + kTileRows, tile.size);
    for (int64_t r = first; r < end; ++r) {
      SoftmaxRow(head, visible, span, r, scale, arrays);
    }
    AddProduct<kChunkKeys, 1>(span.high - span.low, scores + span.low,
                              arrays.values(slot) + span.low * head.padded_dim, head.padded_dim,
                              arrays.sums + first * head.padded_dim);
  }
}

void StoreTile(const AttentionForwardTask& task, const QueryTile& tile, const Arrays& arrays) {
  const AttentionHead& head = task.head;
  for (int64_t r = 0; r < tile.size; ++r) {
    StoreScaledRow(head, arrays.sums + r * head.padded_dim, 1.0f / arrays.total[r],
                   RowAt(task.out, tile.begin + r, task.out_row_bytes));
    task.lse[tile.begin + r] =
        __builtin_fmaf(arrays.maximum[r], kLn2, __builtin_logf(arrays.total[r]));
  }
}

}  // namespace

void ForwardSegment(const AttentionForwardTask& task) {
  const AttentionHead& head = task.head;
  const AttentionSegment& segment = task.segment;
  const float scale = kLog2E * ScoreScale(head);
  Arrays arrays(task);
  for (int64_t c = 0; c < NumPackedChunks(segment); ++c) {
    LoadChunk(head, PackedChunk(head, segment.num_packed, c), segment.ring_chunks + c, arrays);
  }
  int64_t next_chunk = FirstBandChunk(head, segment);
  for (int64_t begin = segment.begin; begin < segment.end; begin += kTileQueries) {
    const QueryTile tile = {begin, Smaller(kTileQueries, segment.end - begin)};
    for (; next_chunk * kChunkKeys < tile.begin + tile.size; ++next_chunk) {
      LoadChunk(head, BandChunk(head, next_chunk), next_chunk % segment.ring_chunks, arrays);
    }
    LoadQueries(head, tile, arrays);
    ForEachChunk(head, segment, tile, [&](int64_t slot, const VisibleKeys& visible) {
      AddChunk(head, tile, slot, visible, scale, arrays);
    });
    StoreTile(task, tile, arrays);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
