// Memory of one backward task of Sep-Attention. For the files of this folder only.
#pragma once

#include "kernels/cpu/isa/attention_tiles.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

// Of the next tile's rows of q, k, v, out or dout, those that are asked for beside one block of
// products.
inline constexpr int kPrefetchParts = 2;

// One chunk of keys with its gradients.
struct Chunk {
  float* key_panels;       // K^T
  float* value_panels;     // V^T
  float* keys;             // [kChunkKeys / kPair, dim]
  float* key_gradients;    // [kChunkKeys, dim], without the factor `scale`
  float* value_gradients;  // [kChunkKeys, dim]
  float* not_finite;       // 1 where some number of K is not finite, else 0
};

// Arrays of one task, in its workspace.
struct Arrays {
  explicit Arrays(const AttentionBackwardTask& task)
      : workspace(task.segment.workspace),
        chunk_floats(kChunkKeys * task.head.padded_dim),
        prefetch(kPrefetchParts) {
    const int64_t out_bytes = task.head.head_dim * ElementBytes(task.head.dtype);
    prefetch.AddQkv(task.head);
    prefetch.Add(task.out, task.out_row_bytes, out_bytes);
    prefetch.Add(task.dout, task.out_row_bytes, out_bytes);
    const int64_t tile_floats = kTileQueries * task.head.padded_dim;
    rows = workspace.Take(chunk_floats);
    queries = workspace.Take(tile_floats);
    query_columns = workspace.Take(tile_floats);
    douts = workspace.Take(tile_floats);
    dout_columns = workspace.Take(tile_floats);
    query_gradients = workspace.Take(tile_floats);
    p = workspace.Take(kTileQueries * kChunkKeys);
    ds = workspace.Take(kTileQueries * kChunkKeys / kPair);
    p_pairs = kPair == 1 ? p : workspace.Take(kTileQueries * kChunkKeys / kPair);
    ds_pairs = kPair == 1 ? ds : workspace.Take(kTileQueries * kChunkKeys / kPair);
    chunks = workspace.Take(NumSlots(task.segment) * 5 * chunk_floats);
    not_finite = workspace.Take(NumSlots(task.segment));
  }
  Chunk chunk(int64_t slot) const {
    float* base = chunks + slot * 5 * chunk_floats;
    return {base,
            base + chunk_floats,
            base + 2 * chunk_floats,
            base + 3 * chunk_floats,
            base + 4 * chunk_floats,
            not_finite + slot};
  }

  Workspace workspace;
  int64_t chunk_floats;
  float* rows;             // [kChunkKeys, RowCells]: rows on their way to another form
  float* queries;          // [kTileQueries / kPair, dim]
  float* query_columns;    // [RowCells, kTileQueries]
  float* douts;            // [kTileQueries / kPair, dim]
  float* dout_columns;     // [RowCells, kTileQueries]
  float* query_gradients;  // [kTileQueries, dim], without the factor `scale`
  float* p;                // [kTileQueries, kChunkKeys]
  float* ds;               // [kTileQueries, kChunkKeys / kPair]
  float* p_pairs;          // [kTileQueries / kPair, kChunkKeys]
  float* ds_pairs;         // [kTileQueries / kPair, kChunkKeys]
  float* chunks;
  float* not_finite;  // per slot
  bool queries_are_finite = true;
  bool douts_are_finite = true;
  float lse[kTileQueries];           // in units of log2
  float dout_dot_out[kTileQueries];  // D_i
  RowPrefetch prefetch;
};

}  // namespace sepia::kernels::cpu::SEPIA_ISA
