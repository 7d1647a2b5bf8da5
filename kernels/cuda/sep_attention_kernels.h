// Sep-Attention on a device: what its kernels share with the host, and their launchers. Plain C++;
// kernels/sep_attention.h states the mathematics, base/attention_index.h the packed keys.
//
// Four kernels make a forward and backward pass, without atomics:
//   forward       out, lse; a block owns query rows
//   dq            dq; a block owns query rows
//   dkv far       fp32 gradients of packed keys, one partial result a query segment
//   dkv band      dk, dv; a block owns keys, sums their band and adds the far part through
//                 `inverse`: one rounding
// and two small ones prepare: pack (far keys into contiguous rows), row_stats (lse and dout . out).
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

inline constexpr int kMaxHeadDim = 256;
// Query rows a segment of the far pass is a multiple of.
inline constexpr int kSegmentAlignment = 64;

// Every pointer is device memory. 16-bit tensors hold bf16 or fp16 as the launcher says.
struct SepAttentionParams {
  const uint16_t* qkv;        // [B, T, H, 3, D] after rotary
  uint16_t* packed_keys;      // [B, H, P, D], rows past num_packed[b] undefined
  uint16_t* packed_values;    // [B, H, P, D]
  const int32_t* positions;   // [B, P]
  const int32_t* count;       // [B, T]
  const int32_t* inverse;     // [B, T]
  const int32_t* num_packed;  // [B]
  uint16_t* out;              // [B, T, H, D]
  float* lse;                 // [B, H, T] natural logarithm
  const uint16_t* dout;       // [B, T, H, D]
  float* row_stats;           // [B, H, T, 2]: lse / ln 2, sum(dout * out)
  uint16_t* dqkv;             // [B, T, H, 3, D]
  float* packed_dkeys;        // [segments, B, H, P, D]
  float* packed_dvalues;      // [segments, B, H, P, D]
  int32_t batch_size, seq_length, num_heads, head_dim;
  int32_t max_packed;      // P
  int32_t window;          // 1 .. T
  int32_t num_segments;    // of the far pass
  int32_t segment_length;  // queries, a multiple of kSegmentAlignment
  float scale;             // 1 / sqrt(D)
};

// Launchers of one implementation; each enqueues.
struct SepAttentionKernels {
  int32_t padded_dim;  // head size that tiles are made for; 0: the fallback without tensor cores
  void (*pack)(Stream& stream, const SepAttentionParams& params);
  void (*forward)(Stream& stream, const SepAttentionParams& params);
  void (*row_stats)(Stream& stream, const SepAttentionParams& params);
  void (*dq)(Stream& stream, const SepAttentionParams& params);
  void (*dkv_far)(Stream& stream, const SepAttentionParams& params);
  void (*dkv_band)(Stream& stream, const SepAttentionParams& params);
};

}  // namespace sepia::kernels::cuda
