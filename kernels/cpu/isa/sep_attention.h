// Sep-Attention of one head and one range of queries: plain pointers, no checks, no threads.
//
// Keys are held as chunks of kChunkKeys: band chunks in a ring (chunk c in slot c % ring_chunks, so
// that a short window stays in cache) and, behind the ring, the packed far keys. Queries are taken
// in tiles of kTileQueries. Every (tile, chunk) pair is masked by one interval of keys per query.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/attention_parts.h"
#include "kernels/cpu/isa/per_isa.h"

namespace sepia::kernels::cpu {

inline constexpr int kChunkKeys = 96;
inline constexpr int kTileQueries = 96;  // divides kChunkKeys

// Rows i of one head of one sequence; element strides and bytes are resolved by the caller.
struct AttentionHead {
  DType dtype;
  int64_t seq_length;  // T
  int64_t head_dim;    // D
  int64_t padded_dim;  // D rounded up to a multiple of 16
  int64_t window;      // 1 ... T
  const void* qkv;     // row 0: q, k, v of D elements each
  int64_t qkv_row_bytes;
  bool stream;  // outputs go past the caches: whole lines of tensors too large to stay there
  // Packed keys (base/attention_index.h), or null.
  const int32_t* positions;
  const int32_t* count;
  const int32_t* inverse;
};

// Queries [begin, end) of a head. `begin` is a multiple of kChunkKeys.
struct AttentionSegment {
  int64_t begin, end;
  int64_t ring_chunks;  // covers the window of one tile
  int64_t num_packed;   // packed keys that some query of the segment sees
  float* workspace;     // 64-byte aligned; its content does not matter
};

struct AttentionForwardTask {
  AttentionHead head;
  AttentionSegment segment;
  void* out;  // row 0
  int64_t out_row_bytes;
  float* lse;  // [T]
};

// Sums of key gradients, fp32 [T, padded_dim] each. Only keys in reach are written.
struct AttentionKeySums {
  float* dk;
  float* dv;
};

struct AttentionBackwardTask {
  AttentionHead head;
  AttentionSegment segment;
  const void* out;
  const void* dout;
  int64_t out_row_bytes;
  const float* lse;  // [T]
  void* dqkv;        // row 0; rows qkv_row_bytes apart
  const QueryPart* parts;
  int64_t num_parts;
  // Whether the parts are all of the head's. If so, key gradients go to dqkv, and `sums` are used
  // where there are several parts. If not, there is one part, and its key gradients go to `sums`.
  bool whole_head;
  AttentionKeySums sums;
};

// Adds the key gradients of all parts of a head, in order, for keys [key_begin, key_end).
struct AttentionReduceTask {
  AttentionHead head;
  const QueryPart* parts;
  const AttentionKeySums* sums;  // of each part
  int64_t num_parts;
  int64_t key_begin, key_end;
  void* dqkv;
  float* workspace;  // 2 * padded_dim floats
};

}  // namespace sepia::kernels::cpu

SEPIA_PER_ISA(void ForwardSegment(const AttentionForwardTask& task);
              void BackwardSegment(const AttentionBackwardTask& task);
              void ReduceKeyGradients(const AttentionReduceTask& task);)

// The same for heads of bf16, with products of bf16 pairs: P and dS are rounded to bf16.
namespace sepia::kernels::cpu::avx512_bf16 {
void ForwardSegment(const AttentionForwardTask& task);
void BackwardSegment(const AttentionBackwardTask& task);
void ReduceKeyGradients(const AttentionReduceTask& task);
}  // namespace sepia::kernels::cpu::avx512_bf16
