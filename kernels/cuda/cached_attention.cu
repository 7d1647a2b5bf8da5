#include "kernels/cuda/cached_attention.h"

#include "kernels/cuda/dense_ops.cuh"
#include "kernels/cuda/sep_attention_kernels.h"

namespace sepia::kernels::cuda {
namespace {

// rows: of [N, H].
template <typename Format>
struct AppendOp {
  using T = Storage<Format>;
  int64_t rows, columns;
  CachedAttentionParams p;

  SEPIA_DEVICE void Chunk(int64_t row, int64_t column, int count) const {
    const int64_t to = (int64_t{p.begin} * p.num_heads + row) * columns + column;
    const T* from = static_cast<const T*>(p.qkv) + (row * 3 + 1) * columns + column;
    float key[kChunk], value[kChunk];
    LoadChunk<Format>(key, from, count);
    LoadChunk<Format>(value, from + columns, count);
    StoreChunk<Format>(static_cast<T*>(p.keys) + to, key, count);
    StoreChunk<Format>(static_cast<T*>(p.values) + to, value, count);
  }
};

// Eight elements as memory holds them: many are on their way at a time, and packed they take the
// fewest registers.
template <typename Format>
struct Packed {
  Vec4 words;
};
template <>
struct Packed<Fp32> {
  Float4 low, high;
};

// The first `count` of eight elements, the rest zero. kWhole: they are aligned, and `count` is 0
// or 8.
template <typename Format, bool kWhole>
SEPIA_DEVICE Packed<Format> LoadPacked(const Storage<Format>* from, int count) {
  Packed<Format> packed = {};
  if constexpr (kWhole) {
    if (count == 0) return packed;
    if constexpr (__is_same(Format, Fp32)) {
      packed.low = LoadGlobal(reinterpret_cast<const Float4*>(from));
      packed.high = LoadGlobal(reinterpret_cast<const Float4*>(from + 4));
    } else {
      packed.words = LoadGlobal(reinterpret_cast<const Vec4*>(from));
    }
  } else {
    float v[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[i] = i < count ? LoadElement<Format>(from + i) : 0.0f;
    if constexpr (__is_same(Format, Fp32)) {
      packed = {{v[0], v[1], v[2], v[3]}, {v[4], v[5], v[6], v[7]}};
    } else {
      packed = {{Pack(Format{}, v[0], v[1]), Pack(Format{}, v[2], v[3]), Pack(Format{}, v[4], v[5]),
                 Pack(Format{}, v[6], v[7])}};
    }
  }
  return packed;
}

template <typename Format>
SEPIA_DEVICE void Unpack(float (&values)[kChunk], const Packed<Format>& packed) {
  if constexpr (__is_same(Format, Fp32)) {
    const Float4 parts[2] = {packed.low, packed.high};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      values[4 * i] = parts[i].x;
      values[4 * i + 1] = parts[i].y;
      values[4 * i + 2] = parts[i].z;
      values[4 * i + 3] = parts[i].w;
    }
  } else {
    const uint32_t words[4] = {packed.words.x, packed.words.y, packed.words.z, packed.words.w};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      values[i] = Widen(Format{}, static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2))));
    }
  }
}

// Below every score, and finite: the difference of two is a number.
constexpr float kLowest = -3e38f;

// The softmax of some keys and its sum of values, eight columns of it: sum of exp2(score - top) v.
struct Softmax {
  float top = kLowest, total = 0;
  float sum[kChunk] = {};

  // To a scale with a higher top.
  SEPIA_DEVICE void RaiseTop(float higher) {
    const float factor = Exp2(top - higher);
    top = higher;
    total *= factor;
#pragma unroll
    for (float& column : sum) column *= factor;
  }
  // Other keys join.
  SEPIA_DEVICE void Join(float other_top, float other_total, const float (&other_sum)[kChunk]) {
    RaiseTop(fmaxf(top, other_top));
    const float factor = Exp2(other_top - top);
    total += factor * other_total;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sum[i] += factor * other_sum[i];
  }
  // The keys of the lane `distance` away join.
  SEPIA_DEVICE void JoinLane(int distance) {
    const float other_top = ShuffleXor(top, distance), other_total = ShuffleXor(total, distance);
    float other[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) other[i] = ShuffleXor(sum[i], distance);
    Join(other_top, other_total, other);
  }
  template <typename Format>
  SEPIA_DEVICE void Store(Storage<Format>* to, int count) const {
    const float factor = 1.0f / total;
    float out[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) out[i] = sum[i] * factor;
    StoreChunk<Format>(to, out, count);
  }
};

// The keys that one query sees, by number.
struct VisibleKeys {
  const int32_t* positions;
  int num_far, num_keys, band_begin;

  SEPIA_DEVICE VisibleKeys(const CachedAttentionParams& p, int position) : positions(p.positions) {
    const int64_t before = position - p.window;  // the last key before the band
    band_begin = before < 0 ? 0 : static_cast<int>(before) + 1;
    num_far = before < 0 || positions == nullptr ? 0 : LoadGlobal(p.count + before);
    num_keys = num_far + position + 1 - band_begin;
  }
  SEPIA_DEVICE int Key(int n) const {
    return n < num_far ? LoadGlobal(positions + n) : band_begin + n - num_far;
  }
};

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// A key is the work of kLanes lanes, eight columns each; a block has that many keys in hand at a
// time, and each group of lanes a few more on the way from memory.
template <typename Format, int kLanes>
struct CacheShape {
  static constexpr int kGroups = kThreads / kLanes;
  static constexpr int kKeysOfGroup = __is_same(Format, Fp32) ? 2 : 4;
  static constexpr int kColumns = kLanes * kChunk;
  static constexpr size_t kSharedBytes = kWarps * (kColumns + 2) * sizeof(float);
};

// The softmax of the warps meets in the first of them.
template <int kLanes>
SEPIA_DEVICE void JoinWarps(Softmax& softmax) {
  constexpr int kColumns = kLanes * kChunk;
  float* const sums = reinterpret_cast<float*>(SharedMemory());  // [kWarps, kColumns]
  auto* const stats = reinterpret_cast<Float2*>(sums + kWarps * kColumns);
  const int warp = ThreadIndex() / 32, lane = ThreadIndex() % 32;
  if (warp > 0 && lane < kLanes) {
    auto* const to = reinterpret_cast<Float4*>(sums + warp * kColumns + lane * kChunk);
    const float(&s)[kChunk] = softmax.sum;
    StoreShared(to, Float4{s[0], s[1], s[2], s[3]});
    StoreShared(to + 1, Float4{s[4], s[5], s[6], s[7]});
    if (lane == 0) StoreShared(stats + warp, Float2{softmax.top, softmax.total});
  }
  SyncThreads();
  if (ThreadIndex() >= kLanes) return;
#pragma unroll
  for (int other = 1; other < kWarps; ++other) {
    const auto* from = reinterpret_cast<const Float4*>(sums + other * kColumns + lane * kChunk);
    const Float4 low = LoadShared(from), high = LoadShared(from + 1);
    const Float2 stat = LoadShared(stats + other);
    softmax.Join(stat.x, stat.y, {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w});
  }
}

// Grid: x = new token * heads + head, y = split.
template <typename Format, int kLanes, bool kWhole>
SEPIA_KERNEL(kThreads, 4)
CachedAttentionRows(const CachedAttentionParams p) {
  using T = Storage<Format>;
  using Shape = CacheShape<Format, kLanes>;
  constexpr int kKeys = Shape::kKeysOfGroup;
  const int row = BlockIndexX(), split = BlockIndexY(), head = row % p.num_heads;
  const int column = ThreadIndex() % kLanes * kChunk, group = ThreadIndex() / kLanes;
  const int rest = p.head_dim - column;
  const int count = rest < 0 ? 0 : rest < kChunk ? rest : kChunk;
  const VisibleKeys visible(p, p.begin + row / p.num_heads);
  const int keys_of_split = (visible.num_keys + p.num_splits - 1) / p.num_splits;
  const int first = split * keys_of_split;
  const int end =
      first + keys_of_split < visible.num_keys ? first + keys_of_split : visible.num_keys;

  float q[kChunk];
  Unpack(q, LoadPacked<Format, kWhole>(
                static_cast<const T*>(p.qkv) + int64_t{row} * 3 * p.head_dim + column, count));
#pragma unroll
  for (float& x : q) x *= p.scale;
  Softmax softmax;
  for (int begin = first; begin < end; begin += Shape::kGroups * kKeys) {
    // All positions, then all rows: each waits for memory once.
    int at[kKeys];
    Packed<Format> keys[kKeys], values[kKeys];
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int n = begin + i * Shape::kGroups + group;
      at[i] = n < end ? visible.Key(n) : -1;
    }
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int64_t from = (int64_t{at[i]} * p.num_heads + head) * p.head_dim + column;
      const int columns = at[i] < 0 ? 0 : count;  // nothing is read past the end
      keys[i] = LoadPacked<Format, kWhole>(static_cast<const T*>(p.keys) + from, columns);
      values[i] = LoadPacked<Format, kWhole>(static_cast<const T*>(p.values) + from, columns);
    }
    float scores[kKeys], top = softmax.top;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      float k[kChunk], score = 0;
      Unpack(k, keys[i]);
#pragma unroll
      for (int c = 0; c < kChunk; ++c) score += q[c] * k[c];
#pragma unroll
      for (int distance = 1; distance < kLanes; distance *= 2) score += ShuffleXor(score, distance);
      scores[i] = score;
      if (at[i] >= 0) top = fmaxf(top, score);
    }
    softmax.RaiseTop(top);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const float weight = at[i] < 0 ? 0.0f : Exp2(scores[i] - top);
      float v[kChunk];
      Unpack(v, values[i]);
      softmax.total += weight;
#pragma unroll
      for (int c = 0; c < kChunk; ++c) softmax.sum[c] += weight * v[c];
    }
  }
#pragma unroll
  for (int distance = kLanes; distance < 32; distance *= 2) softmax.JoinLane(distance);
  JoinWarps<kLanes>(softmax);
  if (ThreadIndex() >= kLanes || count == 0) return;
  if (p.num_splits == 1) {
    softmax.Store<Format>(static_cast<T*>(p.out) + int64_t{row} * p.head_dim + column, count);
    return;
  }
  const int64_t part = int64_t{row} * p.num_splits + split;
  StoreChunk<Fp32>(p.split_sums + part * p.head_dim + column, softmax.sum, count);
  if (column == 0) {
    StoreGlobal(reinterpret_cast<Float2*>(p.split_stats) + part,
                Float2{softmax.top, softmax.total});
  }
}

// Grid: x = new token * heads + head; eight columns a thread.
template <typename Format>
SEPIA_KERNEL(32, 1)
JoinSplits(const CachedAttentionParams p) {
  const int row = BlockIndexX(), column = ThreadIndex() * kChunk;
  const int count = p.head_dim - column < kChunk ? p.head_dim - column : kChunk;
  if (count <= 0) return;
  const int64_t first = int64_t{row} * p.num_splits;
  const auto* stats = reinterpret_cast<const Float2*>(p.split_stats) + first;
  // The top first, so that the sums need no second scale and their loads do not wait for each
  // other.
  Softmax softmax;
  for (int i = 0; i < p.num_splits; ++i) softmax.top = fmaxf(softmax.top, LoadGlobal(stats + i).x);
#pragma unroll 4
  for (int i = 0; i < p.num_splits; ++i) {
    const Float2 stat = LoadGlobal(stats + i);
    const float factor = Exp2(stat.x - softmax.top);
    float sum[kChunk];
    LoadChunk<Fp32>(sum, p.split_sums + (first + i) * p.head_dim + column, count);
    softmax.total += factor * stat.y;
#pragma unroll
    for (int c = 0; c < kChunk; ++c) softmax.sum[c] += factor * sum[c];
  }
  softmax.Store<Format>(static_cast<Storage<Format>*>(p.out) + int64_t{row} * p.head_dim + column,
                        count);
}

template <typename Format, int kLanes, bool kWhole>
void LaunchRows(Stream& stream, const CachedAttentionParams& p) {
  Launch(stream,
         {.name = "CachedAttention",
          .grid = {static_cast<uint32_t>(p.num_new * p.num_heads),
                   static_cast<uint32_t>(p.num_splits)},
          .block = kThreads,
          .shared_bytes = CacheShape<Format, kLanes>::kSharedBytes},
         &CachedAttentionRows<Format, kLanes, kWhole>, p);
}

template <typename Format, bool kWhole>
void LaunchFor(Stream& stream, const CachedAttentionParams& p) {
  if (p.head_dim <= 32) return LaunchRows<Format, 4, kWhole>(stream, p);
  if (p.head_dim <= 64) return LaunchRows<Format, 8, kWhole>(stream, p);
  if (p.head_dim <= 128) return LaunchRows<Format, 16, kWhole>(stream, p);
  LaunchRows<Format, 32, kWhole>(stream, p);
}

bool IsWhole(const CachedAttentionParams& p) {
  const auto is_aligned = [](const void* x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; };
  return p.head_dim % kChunk == 0 && is_aligned(p.qkv) && is_aligned(p.keys) &&
         is_aligned(p.values);
}

}  // namespace

void AppendToCache(Stream& stream, const CachedAttentionParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    LaunchChunks(stream, "AppendToCache",
                 AppendOp<decltype(format)>{int64_t{p.num_new} * p.num_heads, p.head_dim, p});
  });
}

void CachedAttention(Stream& stream, const CachedAttentionParams& p) {
  static_assert(32 * kChunk >= kMaxHeadDim);
  DispatchFormat(p.dtype, [&](auto format) {
    using Format = decltype(format);
    IsWhole(p) ? LaunchFor<Format, true>(stream, p) : LaunchFor<Format, false>(stream, p);
    if (p.num_splits == 1) return;
    Launch(stream,
           {.name = "JoinSplits",
            .grid = {static_cast<uint32_t>(p.num_new * p.num_heads)},
            .block = 32},
           &JoinSplits<Format>, p);
  });
}

}  // namespace sepia::kernels::cuda
