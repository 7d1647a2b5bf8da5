#include "kernels/cpu/amx/gemm_panels.h"

#include "kernels/cpu/amx/products.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {
namespace {

void StoreRows(const __m512i* rows, std::byte* tile) {
  for (int i = 0; i < 16; ++i) _mm512_store_si512(tile + 64 * i, rows[i]);
}

// The first `count` of 32 elements; the others are zero. `kWhole`: all 32.
template <bool kWhole>
__m512i Load32(const BFloat16* from, int64_t count) {
  if (kWhole) return _mm512_loadu_si512(from);
  return _mm512_maskz_loadu_epi16(BitRange(0, count), from);
}

// Lines with consecutive elements along the depth: rows of a tile as they are, or, as words,
// transposed.
template <bool kTransposed, bool kWhole>
void PackAlongDepth(const PanelSource& source, std::byte* panel) {
  for (int64_t p = 0; p < source.depth; p += kPanelStep) {
    for (int64_t first = 0; first < kPanelLines; first += 16, panel += kTileBytes) {
      __m512i rows[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t line = first + i;
        const int64_t count = line < source.lines ? source.depth - p : 0;
        rows[i] = Load32<kWhole>(source.data + line * source.line_stride + p, count);
      }
      if (kTransposed) Transpose(rows);
      StoreRows(rows, panel);
    }
  }
}

// Elements of consecutive lines lie side by side: two depths interleaved make words of one line;
// these are rows of a tile as they are, or transposed. Depths lie too far apart for the processor
// to fetch them ahead by itself.
template <bool kTransposed, bool kWhole>
void PackAcrossDepth(const PanelSource& source, std::byte* panel) {
  alignas(64) static constexpr uint16_t kFirstLines[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  constexpr int64_t kFetchedAhead = 2 * kPanelStep;
  const __m512i first_lines = _mm512_load_si512(kFirstLines);
  const __m512i last_lines = _mm512_add_epi16(first_lines, _mm512_set1_epi16(16));
  for (int64_t p = 0; p < source.depth; p += kPanelStep, panel += kStepBytes) {
    __m512i first[16];
    __m512i last[16];
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t depth = p + 2 * i;
      const BFloat16* from = source.data + depth * source.depth_stride;
      const BFloat16* ahead = from + kFetchedAhead * source.depth_stride;
      _mm_prefetch(ahead, _MM_HINT_T0);
      _mm_prefetch(ahead + source.depth_stride, _MM_HINT_T0);
      const __m512i even = Load32<kWhole>(from, depth < source.depth ? source.lines : 0);
      const __m512i odd =
          Load32<kWhole>(from + source.depth_stride, depth + 1 < source.depth ? source.lines : 0);
      first[i] = _mm512_permutex2var_epi16(even, first_lines, odd);
      last[i] = _mm512_permutex2var_epi16(even, last_lines, odd);
    }
    if (kTransposed) {
      Transpose(first);
      Transpose(last);
    }
    StoreRows(first, panel);
    StoreRows(last, panel + kTileBytes);
  }
}

template <bool kTransposedAlong, bool kTransposedAcross>
void Pack(const PanelSource& source, std::byte* panel) {
  const bool whole = source.lines == kPanelLines && source.depth % kPanelStep == 0;
  if (source.depth_stride == 1) {
    whole ? PackAlongDepth<kTransposedAlong, true>(source, panel)
          : PackAlongDepth<kTransposedAlong, false>(source, panel);
  } else {
    whole ? PackAcrossDepth<kTransposedAcross, true>(source, panel)
          : PackAcrossDepth<kTransposedAcross, false>(source, panel);
  }
}

// A left tile holds 16 rows x 32 of the depth; a right one 16 pairs along the depth x 16 columns.
void PackLeft(const PanelSource& source, std::byte* panel) { Pack<false, true>(source, panel); }
void PackRight(const PanelSource& source, std::byte* panel) { Pack<true, false>(source, panel); }

// 16 fp32 numbers, and 32 as two of them; masked beyond `count`.
struct Pair {
  __m512 low, high;
};

Pair LoadPair(const float* from, uint32_t mask) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16)};
}
Pair LoadPair(const BFloat16* from, uint32_t mask) {
  const auto load = [](const BFloat16* half, uint32_t half_mask) {
    const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(half_mask), half);
    const __m512i words = _mm512_maskz_cvtepu16_epi32(0xffff, bits);
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, words, 16));
  };
  return {load(from, mask), load(from + 16, mask >> 16)};
}
Pair Sum(const Pair& a, const Pair& b) {
  return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}
void StorePair(float* to, uint32_t mask, const Pair& x) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask), x.low);
  _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(mask >> 16), x.high);
}
void StorePair(BFloat16* to, uint32_t mask, const Pair& x) {
  _mm512_mask_storeu_epi16(to, mask, RoundPair(x.low, x.high));
}

// One block of 2 x 2 tiles into columns [col, col + 32) of the result.
template <typename Out>
void FinishBlock(const GemmResult& result, int64_t col, const float* sums) {
  const uint32_t mask = BitRange(0, result.cols - col);
  const Pair bias = result.bias == nullptr ? Pair{_mm512_setzero_ps(), _mm512_setzero_ps()}
                                           : LoadPair(result.bias + col, mask);
  for (int64_t row = 0; row < result.rows; ++row) {
    const float* from = sums + row / 16 * 2 * kTileFloats + row % 16 * 16;
    Out* out = static_cast<Out*>(result.out) + row * result.stride + col;
    Pair total = Sum({_mm512_load_ps(from), _mm512_load_ps(from + kTileFloats)}, bias);
    if (result.accumulate) total = Sum(total, LoadPair(out, mask));
    StorePair(out, mask, total);
  }
}

// Part j of `parts` of the cache lines of a panel, into the second-level cache.
void PrefetchPart(const PanelSource& source, int64_t j, int64_t parts) {
  const bool along = source.depth_stride == 1;
  const int64_t num_runs = along ? source.lines : source.lines == 0 ? 0 : source.depth;
  const int64_t run_stride = along ? source.line_stride : source.depth_stride;
  const int64_t run_length = along ? source.depth : source.lines;
  for (int64_t run = num_runs * j / parts; run < num_runs * (j + 1) / parts; ++run) {
    const BFloat16* from = source.data + run * run_stride;
    for (int64_t i = 0; i < run_length; i += 32) _mm_prefetch(from + i, _MM_HINT_T1);
  }
}

void MultiplyPanels(const PanelProducts& args) {
  const TileScope scope;
  const auto left = [&](int64_t step) { return args.left + step * kStepBytes; };
  for (int64_t j = 0; j < args.num_right; ++j) {
    const std::byte* panel = args.right + j * args.steps * kStepBytes;
    const auto right = [&](int64_t step) { return panel + step * kStepBytes; };
    float* sums = args.sums + j * args.sums_stride;
    PrefetchPart(args.prefetched, j, args.num_right);
    AddProducts(args.steps, left, kTileBytes, right, args.accumulate, sums, 2 * kTileFloats);
    if (!args.is_last) continue;
    if (args.result.is_bf16) {
      FinishBlock<BFloat16>(args.result, j * kPanelLines, sums);
    } else {
      FinishBlock<float>(args.result, j * kPanelLines, sums);
    }
  }
}

}  // namespace

const GemmCode kGemmCode = {
    .pack_left = PackLeft, .pack_right = PackRight, .multiply = MultiplyPanels};

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
