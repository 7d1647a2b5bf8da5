// Sep-Attention without tensor cores: fp32 tensors, and 16-bit ones whose head size is no multiple
// of 8. A warp owns one query (or key) and takes what it sees by 32: a lane computes the score of
// one, then all lanes add the 32 weighted rows, each its own columns. Arithmetic in fp32.
#pragma once

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sep_tiles.cuh"

namespace sepia::kernels::cuda {

inline constexpr int kFallbackWarps = 4;
inline constexpr int kLaneColumns = kMaxHeadDim / 32;  // column c of a lane is lane + 32 c

// One head's tensors by their element type.
template <typename Format>
struct FallbackHead {
  using T = Storage<Format>;
  const SepAttentionParams& p;
  HeadOffsets at;
  int batch;
  int row;  // the warp's query or key; past the end for idle warps

  SEPIA_DEVICE explicit FallbackHead(const SepAttentionParams& params)
      : p(params),
        at(params, BlockIndexX() / params.num_heads, BlockIndexX() % params.num_heads),
        batch(BlockIndexX() / params.num_heads),
        row(BlockIndexY() * kFallbackWarps + ThreadIndex() / 32) {}

  // part 0, 1, 2 = q, k, v of token i.
  SEPIA_DEVICE const T* Qkv(int i, int part) const {
    return reinterpret_cast<const T*>(p.qkv) + at.Qkv(i) + part * p.head_dim;
  }
  SEPIA_DEVICE const T* Dout(int i) const { return reinterpret_cast<const T*>(p.dout) + at.Out(i); }
  SEPIA_DEVICE float Dot(const T* a, const T* b) const {
    float sum = 0;
    for (int d = 0; d < p.head_dim; ++d)
      sum += LoadElement<Format>(a + d) * LoadElement<Format>(b + d);
    return sum;
  }
  // sums[c] += weight of each lane times the lane's row, in order of the lanes.
  SEPIA_DEVICE void AddRows(float (&sums)[kLaneColumns], float weight, int token, int count,
                            const T* rows, int64_t stride) const {
    const int lane = ThreadIndex() & 31;
    for (int n = 0; n < count; ++n) {
      const float w = Shuffle(weight, n);
      const T* from = rows + Shuffle(token, n) * stride;
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c) {
        if (lane + 32 * c < p.head_dim) sums[c] += w * LoadElement<Format>(from + lane + 32 * c);
      }
    }
  }
  SEPIA_DEVICE void StoreRow(T* to, const float (&sums)[kLaneColumns], float factor) const {
    const int lane = ThreadIndex() & 31;
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) {
      if (lane + 32 * c < p.head_dim) StoreElement<Format>(to + lane + 32 * c, sums[c] * factor);
    }
  }
};

// The keys of one query by number: the band from the diagonal down, then the packed ones.
struct KeysOfQuery {
  int query, num_band, num_keys;
  const int32_t* positions;

  SEPIA_DEVICE KeysOfQuery(const SepAttentionParams& p, int batch, int i)
      : query(i),
        num_band(Min(p.window, i + 1)),
        positions(p.positions + static_cast<int64_t>(batch) * p.max_packed) {
    const int64_t counts = static_cast<int64_t>(batch) * p.seq_length;
    num_keys = num_band;
    if (i >= p.window) num_keys += LoadGlobal(p.count + counts + i - p.window);
  }
  SEPIA_DEVICE int Key(int n) const {
    return n < num_band ? query - n : LoadGlobal(positions + n - num_band);
  }
};

// Grids of all three: x = batch * heads + head, y = kFallbackWarps rows a block.
template <typename Format>
SEPIA_KERNEL(kFallbackWarps * 32, 1)
FallbackForward(const SepAttentionParams p) {
  const FallbackHead<Format> head(p);
  if (head.row >= p.seq_length) return;
  using T = typename FallbackHead<Format>::T;
  const int lane = ThreadIndex() & 31;
  const KeysOfQuery keys(p, head.batch, head.row);
  float out[kLaneColumns] = {};
  float maximum = kMinusInfinity, sum = 0;
  for (int first = 0; first < keys.num_keys; first += 32) {
    const int count = Min(32, keys.num_keys - first);
    const int key = keys.Key(first + Min(lane, count - 1));
    const float score = lane < count
                            ? head.Dot(head.Qkv(head.row, 0), head.Qkv(key, 1)) * p.scale * kLog2E
                            : kMinusInfinity;
    const float high = fmaxf(maximum, WarpMax(score));
    const float rescale = Exp2(maximum - high);
    const float weight = Exp2(score - high);
    maximum = high;
    sum = sum * rescale + WarpSum(weight);
    for (float& column : out) column *= rescale;
    head.AddRows(out, weight, key, count, head.Qkv(0, 2), head.at.qkv_row);
  }
  head.StoreRow(reinterpret_cast<T*>(p.out) + head.at.Out(head.row), out, 1.0f / sum);
  if (lane == 0) StoreGlobal(p.lse + head.at.rows + head.row, (maximum + Log2(sum)) * kLn2);
}

template <typename Format>
SEPIA_KERNEL(kFallbackWarps * 32, 1)
FallbackRowStats(const SepAttentionParams p) {
  const FallbackHead<Format> head(p);
  if (head.row >= p.seq_length) return;
  using T = typename FallbackHead<Format>::T;
  const T* out = reinterpret_cast<const T*>(p.out) + head.at.Out(head.row);
  float dot = 0;
  for (int d = ThreadIndex() & 31; d < p.head_dim; d += 32) {
    dot += LoadElement<Format>(out + d) * LoadElement<Format>(head.Dout(head.row) + d);
  }
  dot = WarpSum(dot);
  if ((ThreadIndex() & 31) != 0) return;
  const int64_t to = head.at.rows + head.row;
  StoreGlobal(reinterpret_cast<Float2*>(p.row_stats) + to,
              Float2{LoadGlobal(p.lse + to) * kLog2E, dot});
}

// The probability of (query, key) and its gradient, for the lane's own pair.
struct PairGradient {
  float p, ds;
};
template <typename Format>
SEPIA_DEVICE PairGradient Differentiate(const FallbackHead<Format>& head, int query, int key) {
  const auto stats =
      LoadGlobal(reinterpret_cast<const Float2*>(head.p.row_stats) + head.at.rows + query);
  const float score = head.Dot(head.Qkv(query, 0), head.Qkv(key, 1)) * head.p.scale * kLog2E;
  const float p = Exp2(score - stats.x);
  return {p, p * (head.Dot(head.Dout(query), head.Qkv(key, 2)) - stats.y)};
}

template <typename Format>
SEPIA_KERNEL(kFallbackWarps * 32, 1)
FallbackDq(const SepAttentionParams p) {
  const FallbackHead<Format> head(p);
  if (head.row >= p.seq_length) return;
  using T = typename FallbackHead<Format>::T;
  const int lane = ThreadIndex() & 31;
  const KeysOfQuery keys(p, head.batch, head.row);
  float dq[kLaneColumns] = {};
  for (int first = 0; first < keys.num_keys; first += 32) {
    const int count = Min(32, keys.num_keys - first);
    const int key = keys.Key(first + Min(lane, count - 1));
    const float ds = Differentiate(head, head.row, key).ds;
    head.AddRows(dq, ds, key, count, head.Qkv(0, 1), head.at.qkv_row);
  }
  head.StoreRow(reinterpret_cast<T*>(p.dqkv) + head.at.Qkv(head.row), dq, p.scale);
}

// A key is seen by the queries of its window and, if packed, by all later ones: one range.
template <typename Format>
SEPIA_KERNEL(kFallbackWarps * 32, 1)
FallbackDkv(const SepAttentionParams p) {
  const FallbackHead<Format> head(p);
  if (head.row >= p.seq_length) return;
  using T = typename FallbackHead<Format>::T;
  const int lane = ThreadIndex() & 31, key = head.row;
  const bool packed =
      LoadGlobal(p.inverse + static_cast<int64_t>(head.batch) * p.seq_length + key) >= 0;
  const int end = packed ? p.seq_length : Min(p.seq_length, key + p.window);
  float dk[kLaneColumns] = {}, dv[kLaneColumns] = {};
  for (int first = key; first < end; first += 32) {
    const int count = Min(32, end - first);
    const int query = first + Min(lane, count - 1);
    const PairGradient pair = Differentiate(head, query, key);
    head.AddRows(dk, pair.ds, query, count, head.Qkv(0, 0), head.at.qkv_row);
    head.AddRows(dv, pair.p, query, count, head.Dout(0), head.at.out_row);
  }
  T* const to = reinterpret_cast<T*>(p.dqkv) + head.at.Qkv(key);
  head.StoreRow(to + p.head_dim, dk, p.scale);
  head.StoreRow(to + 2 * p.head_dim, dv, 1.0f);
}

}  // namespace sepia::kernels::cuda
