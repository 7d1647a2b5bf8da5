// Eight fp32 lanes in one AVX2 register. Included through vec.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

inline constexpr int kLanes = 8;

struct Vec {
  __m256 v;
};

// One truth value a lane: all bits or none.
struct Mask {
  __m256 m;
};

inline Vec Set(float x) { return {_mm256_set1_ps(x)}; }
inline Vec Zero() { return {_mm256_setzero_ps()}; }

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
// a * b + c and c - a * b, rounded once.
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec Fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
// b where either is NaN.
inline Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec Min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec Sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec Abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
// To the nearest integer, ties to even.
inline Vec Round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for integral n, where a and the result are normal or infinite numbers.
inline Vec ScaleByPowerOf2(Vec a, Vec n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), exponent))};
}

inline Mask operator<(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Vec Select(Mask mask, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, mask.m)}; }
// Lanes begin <= lane < end; the bounds may lie outside the vector.
inline Mask LaneRange(int32_t begin, int32_t end) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane);
  const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane);
  return {_mm256_castsi256_ps(_mm256_andnot_si256(before, below))};
}

// Minimax polynomial of degree 5 for the distance to the nearest integer, relative error 9.2e-8.
inline Vec Exp2(Vec x) {
  // Adding 1.5 * 2^23 rounds to an integer, which then fills the low bits of the sum.
  const Vec shift = Set(0x1.8p23f);
  const Vec limited = Min(Set(128.0f), x);
  const Vec shifted = limited + shift;
  const Vec f = limited - (shifted - shift);
  Vec p = Set(1.32647145e-3f);
  p = Fma(p, f, Set(9.67151299e-3f));
  p = Fma(p, f, Set(5.55073395e-2f));
  p = Fma(p, f, Set(2.40222424e-1f));
  p = Fma(p, f, Set(6.93147004e-1f));
  p = Fma(p, f, Set(1.0f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23);
  const __m256i power = _mm256_add_epi32(_mm256_castps_si256(p.v), exponent);
  const __m256 small = _mm256_cmp_ps(x.v, _mm256_set1_ps(-125.5f), _CMP_LT_OQ);
  return {_mm256_andnot_ps(small, _mm256_castsi256_ps(power))};
}

inline float Sum(Vec a) {
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
inline float MaxOfLanes(Vec a) {
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}

inline __m256 WidenBFloat16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m128i RoundToBFloat16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i bits = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}
inline __m128i RoundToFloat16(__m256 x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }

inline Vec Load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec Load(const BFloat16* p) {
  return {WidenBFloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Vec Load(const Float16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void Store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline void Store(BFloat16* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), RoundToBFloat16(a.v));
}
inline void Store(Float16* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), RoundToFloat16(a.v));
}

template <typename T>
inline Vec LoadN(const T* p, int64_t count) {
  if (count >= kLanes) return Load(p);
  alignas(32) unsigned char bytes[kLanes * sizeof(T)] = {};
  std::memcpy(bytes, p, static_cast<size_t>(count) * sizeof(T));
  return Load(reinterpret_cast<const T*>(bytes));
}
template <typename T>
inline void StoreN(T* p, Vec a, int64_t count) {
  if (count >= kLanes) return Store(p, a);
  alignas(32) unsigned char bytes[kLanes * sizeof(T)];
  Store(reinterpret_cast<T*>(bytes), a);
  std::memcpy(p, bytes, static_cast<size_t>(count) * sizeof(T));
}

// Past the caches; p is aligned to the bytes stored.
inline void Stream(float* p, Vec a) { _mm256_stream_ps(p, a.v); }
inline void Stream(BFloat16* p, Vec a) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), RoundToBFloat16(a.v));
}
inline void Stream(Float16* p, Vec a) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), RoundToFloat16(a.v));
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
