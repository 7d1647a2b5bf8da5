// Rows of elements of any compute dtype, eight at a time: 128-bit accesses where they are aligned.
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace sepia::kernels::cuda {

struct Fp32 {};
// Not rounded: the upper half of fp32 bits.
struct UpperHalf {};

SEPIA_DEVICE uint32_t Pack(UpperHalf, float low, float high) {
  return FloatBits(low) >> 16 | (FloatBits(high) & 0xffff0000u);
}
SEPIA_DEVICE float Widen(UpperHalf, uint16_t bits) { return Widen(Bf16{}, bits); }

template <typename Format>
struct StorageOf {
  using Type = uint16_t;
};
template <>
struct StorageOf<Fp32> {
  using Type = float;
};
template <typename Format>
using Storage = typename StorageOf<Format>::Type;

template <typename Format>
SEPIA_DEVICE float LoadElement(const Storage<Format>* from) {
  if constexpr (__is_same(Format, Fp32)) {
    return LoadGlobal(from);
  } else {
    return Widen(Format{}, LoadGlobal(from));
  }
}
template <typename Format>
SEPIA_DEVICE void StoreElement(Storage<Format>* to, float value) {
  if constexpr (__is_same(Format, Fp32)) {
    StoreGlobal(to, value);
  } else {
    StoreGlobal(to, static_cast<uint16_t>(Pack(Format{}, value, 0.0f)));
  }
}

inline constexpr int kChunk = 8;

SEPIA_DEVICE bool IsAligned16(const void* address) {
  return (reinterpret_cast<uintptr_t>(address) & 15) == 0;
}

// The first `count` of eight elements; the rest is zero.
template <typename Format>
SEPIA_DEVICE void LoadChunk(float (&values)[kChunk], const Storage<Format>* from, int count) {
  if (count < kChunk || !IsAligned16(from)) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = i < count ? LoadElement<Format>(from + i) : 0.0f;
    return;
  }
  if constexpr (__is_same(Format, Fp32)) {
#pragma unroll
    for (int i = 0; i < kChunk; i += 4) {
      const auto part = LoadGlobal(reinterpret_cast<const Float4*>(from + i));
      values[i] = part.x;
      values[i + 1] = part.y;
      values[i + 2] = part.z;
      values[i + 3] = part.w;
    }
  } else {
    const auto part = LoadGlobal(reinterpret_cast<const Vec4*>(from));
    const uint32_t words[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      values[i] = Widen(Format{}, static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2))));
    }
  }
}

template <typename Format>
SEPIA_DEVICE void StoreChunk(Storage<Format>* to, const float (&values)[kChunk], int count) {
  if (count < kChunk || !IsAligned16(to)) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < count) StoreElement<Format>(to + i, values[i]);
    }
    return;
  }
  if constexpr (__is_same(Format, Fp32)) {
#pragma unroll
    for (int i = 0; i < kChunk; i += 4) {
      StoreGlobal(reinterpret_cast<Float4*>(to + i),
                  Float4{values[i], values[i + 1], values[i + 2], values[i + 3]});
    }
  } else {
    StoreGlobal(reinterpret_cast<Vec4*>(to),
                Vec4{Pack(Format{}, values[0], values[1]), Pack(Format{}, values[2], values[3]),
                     Pack(Format{}, values[4], values[5]), Pack(Format{}, values[6], values[7])});
  }
}

SEPIA_DEVICE float WarpMax(float x) {
  for (int distance = 1; distance < 32; distance *= 2) x = fmaxf(x, ShuffleXor(x, distance));
  return x;
}
SEPIA_DEVICE float WarpSum(float x) {
  for (int distance = 1; distance < 32; distance *= 2) x += ShuffleXor(x, distance);
  return x;
}

}  // namespace sepia::kernels::cuda
