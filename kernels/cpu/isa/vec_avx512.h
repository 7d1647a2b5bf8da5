// Sixteen fp32 lanes in one AVX-512 register. Included through vec.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

inline constexpr int kLanes = 16;

struct Vec {
  __m512 v;
};

// One truth value a lane.
struct Mask {
  __mmask16 m;
};

inline Vec Set(float x) { return {_mm512_set1_ps(x)}; }
inline Vec Zero() { return {_mm512_setzero_ps()}; }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c and c - a * b, rounded once.
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec Fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
// b where either is NaN.
inline Vec Max(Vec a, Vec b) { return {_mm512_maskz_max_ps(0xffff, a.v, b.v)}; }
inline Vec Min(Vec a, Vec b) { return {_mm512_maskz_min_ps(0xffff, a.v, b.v)}; }
inline Vec Sqrt(Vec a) { return {_mm512_maskz_sqrt_ps(0xffff, a.v)}; }
inline Vec Abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
// To the nearest integer, ties to even.
inline Vec Round(Vec a) {
  return {_mm512_maskz_roundscale_ps(0xffff, a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for integral n.
inline Vec ScaleByPowerOf2(Vec a, Vec n) { return {_mm512_maskz_scalef_ps(0xffff, a.v, n.v)}; }

inline Mask operator<(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Vec Select(Mask mask, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(mask.m, no.v, yes.v)};
}
// Lanes begin <= lane < end; the bounds may lie outside the vector.
inline Mask LaneRange(int32_t begin, int32_t end) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 below = _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
  return {_mm512_mask_cmpge_epi32_mask(below, lane, _mm512_set1_epi32(begin))};
}

// Minimax polynomial of degree 5 on the fraction of x, relative error 8.2e-8; the power takes the
// floor itself.
inline Vec Exp2(Vec x) {
  constexpr int kFloor = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const Vec f = {_mm512_maskz_reduce_ps(0xffff, x.v, kFloor)};
  Vec p = Set(1.86712982e-3f);
  p = Fma(p, f, Set(9.01703071e-3f));
  p = Fma(p, f, Set(5.57999127e-2f));
  p = Fma(p, f, Set(2.40164444e-1f));
  p = Fma(p, f, Set(6.93151295e-1f));
  p = Fma(p, f, Set(1.0f));
  const __mmask16 large = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-125.5f), _CMP_NLT_UQ);
  return {_mm512_maskz_scalef_ps(large, p.v, x.v)};
}

inline float Sum(Vec a) {
  const __m256 half = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, a.v, 0),
                                    _mm512_maskz_extractf32x8_ps(0xff, a.v, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
inline float MaxOfLanes(Vec a) {
  const __m256 half = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, a.v, 0),
                                    _mm512_maskz_extractf32x8_ps(0xff, a.v, 1));
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}

// The first `count` lanes, 0 <= count.
inline __mmask16 FirstLanes(int64_t count) {
  return count >= kLanes ? __mmask16{0xffff} : static_cast<__mmask16>((1u << count) - 1u);
}

inline __m512 WidenBFloat16(__m256i bits) {
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, bits);
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, wide, 16));
}
inline __m256i RoundToBFloat16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i high = _mm512_maskz_srli_epi32(0xffff, u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_maskz_srli_epi32(0xffff, _mm512_add_epi32(u, bias), 16);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_mask_blend_epi32(nan, rounded, quiet));
}
inline __m256i RoundToFloat16(__m512 x) {
  return _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT);
}

inline Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec Load(const BFloat16* p) {
  return {WidenBFloat16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec Load(const Float16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_maskz_cvtph_ps(0xffff, bits)};
}
inline Vec LoadN(const float* p, int64_t count) {
  return {_mm512_maskz_loadu_ps(FirstLanes(count), p)};
}
inline Vec LoadN(const BFloat16* p, int64_t count) {
  return {WidenBFloat16(_mm256_maskz_loadu_epi16(FirstLanes(count), p))};
}
inline Vec LoadN(const Float16* p, int64_t count) {
  const __m256i bits = _mm256_maskz_loadu_epi16(FirstLanes(count), p);
  return {_mm512_maskz_cvtph_ps(0xffff, bits)};
}

inline void Store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void Store(BFloat16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), RoundToBFloat16(a.v));
}
inline void Store(Float16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), RoundToFloat16(a.v));
}
inline void StoreN(float* p, Vec a, int64_t count) {
  _mm512_mask_storeu_ps(p, FirstLanes(count), a.v);
}
inline void StoreN(BFloat16* p, Vec a, int64_t count) {
  _mm256_mask_storeu_epi16(p, FirstLanes(count), RoundToBFloat16(a.v));
}
inline void StoreN(Float16* p, Vec a, int64_t count) {
  _mm256_mask_storeu_epi16(p, FirstLanes(count), RoundToFloat16(a.v));
}

// Past the caches; p is aligned to the bytes stored.
inline void Stream(float* p, Vec a) { _mm512_stream_ps(p, a.v); }
inline void Stream(BFloat16* p, Vec a) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), RoundToBFloat16(a.v));
}
inline void Stream(Float16* p, Vec a) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), RoundToFloat16(a.v));
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
