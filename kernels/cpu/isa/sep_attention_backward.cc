// Backward: one sweep over tiles of queries, five products per tile and chunk.
//
//   S = Q K^T, P = 2^(scale log2(e) S - log2(e) lse), dP = dO V^T, dS = P (dP - D_i)
//   dV += P^T dO, dK += scale dS^T Q, dQ += scale dS K        (FlashAttention-2, algorithm 2)
//
// Key gradients of a part (kernels/cpu/attention_parts.h) stay in fp32 beside their chunk. When a
// band chunk leaves the ring, gradients of packed keys move to their packed row and all others are
// the part's sums; one rounding per output.
#include "kernels/cpu/isa/attention_key_gradients.h"
#include "kernels/cpu/isa/attention_pairs.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

// To places offset, offset + 1, ... of a chunk, gradients zero: `size` of them.
void LoadKeys(const AttentionHead& head, const KeyRange& keys, const Arrays& arrays,
              const Chunk& chunk, int64_t offset, int64_t size) {
  const int64_t dim = head.padded_dim;
  float* paired = chunk.keys + offset / kPair * dim;
  float* key_rows = RowsToPair(paired, arrays.rows);
  const bool finite = LoadKeyRows(head, keys, 1, key_rows);
  if (offset == 0) *chunk.not_finite = 0.0f;
  if (!finite) *chunk.not_finite = 1.0f;
  TransposeKeys(head, keys, key_rows, chunk.key_panels + offset * RowCells(head));
  PairRows(key_rows, keys.padded_size(), dim, paired);
  LoadKeyRows(head, keys, 2, arrays.rows);
  TransposeKeys(head, keys, arrays.rows, chunk.value_panels + offset * RowCells(head));
  ZeroFill(chunk.key_gradients + offset * dim, size * dim);
  ZeroFill(chunk.value_gradients + offset * dim, size * dim);
}

float Dot(const Number* a, const Number* b, int64_t size) {
  Vec sum = Zero();
  for (int64_t d = 0; d < size; d += kLanes) sum = Fma(Load(a + d), Load(b + d), sum);
  return Sum(sum);
}

struct TileRows {
  const float* rows;  // valid until arrays.rows is used again
  bool are_finite;
};

// Rows of a tile, zero beyond its size, as columns and paired.
template <typename RowOf>
TileRows LoadTileRows(const AttentionHead& head, const QueryTile& tile, const RowOf& row_of,
                      const Arrays& arrays, float* columns, float* paired) {
  const int64_t cells = RowCells(head);
  float* rows = RowsToPair(paired, arrays.rows);
  const bool finite = LoadRows(head, tile.size, row_of, rows);
  ZeroFill(rows + tile.size * cells, (kTileQueries - tile.size) * cells);
  Transpose(rows, kTileQueries, cells, columns, kTileQueries);
  PairRows(rows, kTileQueries, head.padded_dim, paired);
  return {rows, finite};
}

void LoadTile(const AttentionBackwardTask& task, const QueryTile& tile, Arrays& arrays) {
  const AttentionHead& head = task.head;
  const auto query_row = [&](int64_t r) { return QkvRow(head, tile.begin + r, 0); };
  const auto out_row = [&](int64_t r) {
    return RowAt(task.out, tile.begin + r, task.out_row_bytes);
  };
  const auto dout_row = [&](int64_t r) {
    return RowAt(task.dout, tile.begin + r, task.out_row_bytes);
  };
  arrays.queries_are_finite =
      LoadTileRows(head, tile, query_row, arrays, arrays.query_columns, arrays.queries).are_finite;
  const auto [douts, finite] =
      LoadTileRows(head, tile, dout_row, arrays, arrays.dout_columns, arrays.douts);
  arrays.douts_are_finite = finite;
  float* outs = arrays.query_gradients;  // not in use yet
  LoadRows(head, tile.size, out_row, outs);
  for (int64_t r = 0; r < tile.size; ++r) {
    const int64_t at = r * RowCells(head);
    arrays.lse[r] = task.lse[tile.begin + r] * kLog2E;
    arrays.dout_dot_out[r] = Dot(Numbers(douts + at), Numbers(outs + at), head.padded_dim);
  }
  ZeroFill(arrays.query_gradients, kTileQueries * head.padded_dim);
}

// P of the tile against a chunk.
void ComputeProbabilities(const AttentionHead& head, const Chunk& chunk, const VisibleKeys& visible,
                          float scale, Arrays& arrays) {
  const Vec factor = Set(scale);
  MultiplyScores(
      head, visible, arrays.query_columns, chunk.key_panels, arrays.prefetch,
      [](int64_t) { return Zero(); },
      [&]<int kVecs, typename Mode>(int64_t r, int64_t key, const Vec* scores, VecCount<kVecs>,
                                    Mode) {
        const Vec shift = Set(-arrays.lse[r]);
        SEPIA_UNROLL
        for (int v = 0; v < kVecs; ++v) {
          const int64_t at = key + v * kLanes;
          float* to = arrays.p + r * kChunkKeys + at;
          Vec p = Exp2(Fma(scores[v], factor, shift));
          if constexpr (Mode::kMasked) {
            p = KeepVisible(at, visible.low[r], visible.high[r], p, Zero());
          }
          Store(to, p);
          if (kPair == 2 && r % 2 == 1) {
            Store(arrays.p_pairs + r / 2 * kChunkKeys + at, PairCells(Load(to - kChunkKeys), p));
          }
        }
      });
  ZeroBeside(visible, arrays.p_pairs);
}

// dS = P (dP - D_i); in pairs, it replaces P.
void ComputeScoreGradients(const AttentionHead& head, const Chunk& chunk,
                           const VisibleKeys& visible, Arrays& arrays) {
  MultiplyScores(
      head, visible, arrays.dout_columns, chunk.value_panels, arrays.prefetch,
      [&](int64_t r) { return Set(-arrays.dout_dot_out[r]); },
      [&]<int kVecs, typename Mode>(int64_t r, int64_t key, const Vec* differences, VecCount<kVecs>,
                                    Mode) {
        SEPIA_UNROLL
        for (int v = 0; v < kVecs; ++v) {
          const int64_t at = key + v * kLanes;
          float* p = arrays.p + r * kChunkKeys + at;
          Vec ds = Load(p) * differences[v];
          if constexpr (Mode::kMasked) {
            ds = KeepVisible(at, visible.low[r], visible.high[r], ds, Zero());
          }
          StoreNumbers(Numbers(arrays.ds) + r * kChunkKeys + at, ds);
          if (kPair == 2) Store(p, ds);
          if (kPair == 2 && r % 2 == 1) {
            Store(arrays.ds_pairs + r / 2 * kChunkKeys + at, PairCells(Load(p - kChunkKeys), ds));
          }
        }
      });
  ZeroBeside(visible, arrays.ds_pairs);
}

// dQ += dS K.
void AddQueryGradients(const AttentionHead& head, const Chunk& chunk, const VisibleKeys& visible,
                       Arrays& arrays) {
  if (*chunk.not_finite > 0.0f) {
    return AddVisibleKeys(visible, Numbers(arrays.ds), chunk.keys, head.padded_dim,
                          arrays.query_gradients);
  }
  constexpr int kRowCells = kChunkKeys / kPair;
  ForEachBlock(visible, [&](int64_t first, const BlockSpan& span) {
    if (span.empty()) return;
    arrays.prefetch.Some();
    const int64_t low = span.low / kPair;
    const int64_t high = (span.high + kPair - 1) / kPair;
    AddProduct<kRowCells, 1>(high - low, arrays.ds + first * kRowCells + low,
                             chunk.keys + low * head.padded_dim, head.padded_dim,
                             arrays.query_gradients + first * head.padded_dim);
  });
}

// gradients [kChunkKeys, dim] += columns^T rows, for blocks of keys and the queries that see any of
// them.
void AddKeyProducts(const QueryTile& tile, const VisibleKeys& visible, const float* columns,
                    const float* rows, int64_t dim, RowPrefetch& prefetch, float* gradients) {
  int64_t begin = 0;
  int64_t end = 0;
  for (int64_t key = 0; key < kChunkKeys; key += kBlockRows) {
    while (begin < tile.size && visible.high[begin] <= key) ++begin;
    while (end < tile.size && visible.low[end] < key + kBlockRows) ++end;
    if (begin >= end) continue;
    prefetch.Some();
    const int64_t first = begin / kPair;
    const int64_t steps = (end + kPair - 1) / kPair - first;
    AddProduct<1, kChunkKeys>(steps, columns + first * kChunkKeys + key, rows + first * dim, dim,
                              gradients + key * dim);
  }
}

// dV += P^T dO, then dK += dS^T Q: one after the other, so that dO or Q stays in the L1 cache.
void AddKeyGradients(const AttentionHead& head, const QueryTile& tile, const Chunk& chunk,
                     const VisibleKeys& visible, Arrays& arrays) {
  const int64_t dim = head.padded_dim;
  if (!arrays.queries_are_finite || !arrays.douts_are_finite) {
    AddVisibleQueries(tile, visible, arrays.p_pairs, arrays.douts, dim, chunk.value_gradients);
    AddVisibleQueries(tile, visible, arrays.ds_pairs, arrays.queries, dim, chunk.key_gradients);
    return;
  }
  AddKeyProducts(tile, visible, arrays.p_pairs, arrays.douts, dim, arrays.prefetch,
                 chunk.value_gradients);
  AddKeyProducts(tile, visible, arrays.ds_pairs, arrays.queries, dim, arrays.prefetch,
                 chunk.key_gradients);
}

void StoreQueryGradients(const AttentionBackwardTask& task, const QueryTile& tile, float scale,
                         const Arrays& arrays) {
  for (int64_t r = 0; r < tile.size; ++r) {
    StoreRow(task.head, arrays.query_gradients + r * task.head.padded_dim, scale,
             GradientRow(task.head, task.dqkv, tile.begin + r, 0));
  }
}

}  // namespace

void BackwardSegment(const AttentionBackwardTask& task) {
  const AttentionHead& head = task.head;
  const AttentionSegment& segment = task.segment;
  const float scale = ScoreScale(head);
  const float log2_scale = kLog2E * scale;
  Arrays arrays(task);
  int64_t next_packed = 0;
  const int64_t first_chunk = FirstBandChunk(head, segment);
  int64_t next_chunk = first_chunk;
  Part part = {0, segment.begin, 0};
  for (int64_t p = 0; p < task.num_parts; ++p) {
    part = {part.end, task.parts[p].end, task.parts[p].num_packed};
    for (int64_t begin = part.begin; begin < part.end; begin += kTileQueries) {
      const QueryTile tile = {begin, Smaller(kTileQueries, part.end - begin)};
      // Before band chunks leave, because these hand their gradients to packed keys.
      LoadPackedKeys(head, segment, tile, next_packed,
                     [&](const KeyRange& keys, int64_t slot, int64_t offset) {
                       LoadKeys(head, keys, arrays, arrays.chunk(slot), offset, kPackedKeys);
                     });
      for (; next_chunk * kChunkKeys < tile.begin + tile.size; ++next_chunk) {
        const int64_t leaving = next_chunk - segment.ring_chunks;
        if (leaving >= first_chunk) FlushBandChunk(task, part, leaving, scale, arrays);
        LoadKeys(head, BandChunk(head, next_chunk), arrays,
                 arrays.chunk(next_chunk % segment.ring_chunks), 0, kChunkKeys);
      }
      LoadTile(task, tile, arrays);
      arrays.prefetch.Start(segment, tile);
      ForEachChunk(head, segment, tile, [&](int64_t slot, const VisibleKeys& visible) {
        const Chunk chunk = arrays.chunk(slot);
        ComputeProbabilities(head, chunk, visible, log2_scale, arrays);
        ComputeScoreGradients(head, chunk, visible, arrays);
        AddQueryGradients(head, chunk, visible, arrays);
        AddKeyGradients(head, tile, chunk, visible, arrays);
      });
      StoreQueryGradients(task, tile, scale, arrays);
    }
    FinishPart(task, part, Larger(first_chunk, next_chunk - segment.ring_chunks), next_chunk, scale,
               arrays);
  }
  _mm_sfence();
}

void ReduceKeyGradients(const AttentionReduceTask& task) {
  const AttentionHead& head = task.head;
  const int64_t dim = head.padded_dim;
  float* dk = task.workspace;
  float* dv = task.workspace + dim;
  for (int64_t key = task.key_begin; key < task.key_end; ++key) {
    bool is_first = true;
    Part part = {0, 0, 0};
    for (int64_t p = 0; p < task.num_parts; ++p) {
      part = {part.end, task.parts[p].end, task.parts[p].num_packed};
      if (!part.Sees(head, key)) continue;
      const auto take = is_first ? CopyRow : AddRow;
      take(task.sums[p].dk + key * dim, dim, dk);
      take(task.sums[p].dv + key * dim, dim, dv);
      is_first = false;
    }
    StoreRow(head, dk, ScoreScale(head), GradientRow(head, task.dqkv, key, 1));
    StoreRow(head, dv, 1.0f, GradientRow(head, task.dqkv, key, 2));
  }
  _mm_sfence();
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
