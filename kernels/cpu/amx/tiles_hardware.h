// AMX-BF16. Inline assembly, because the intrinsics of g++ 12 do not tell the compiler that tile
// loads and stores touch memory, so that vector stores may be moved past them.
#pragma once

#include <cstddef>
#include <cstdint>

#include <immintrin.h>

namespace sepia::kernels::cpu::amx::hardware {

// Tiles of this thread, with denormals flushed in vector code as tiles do; both undone at the end.
class TileScope {
 public:
  TileScope() : control_(_mm_getcsr()) {
    struct alignas(64) {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
    _mm_setcsr(control_ | 0x8040);  // flush to zero, denormals are zero
  }
  ~TileScope() {
    __asm__ volatile("tilerelease" ::: "memory");
    _mm_setcsr(control_);
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  unsigned int control_;
};

template <int kTile>
inline void TileZero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kTile>
inline void TileLoad(const void* from) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(int64_t{64}), "i"(kTile)
                   : "memory");
}

// Every row becomes the 64 bytes at `row`.
template <int kTile>
inline void TileBroadcast(const void* row) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(row), "r"(int64_t{0}), "i"(kTile)
                   : "memory");
}

template <int kTile>
inline void TileStore(void* to) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(int64_t{64}), "i"(kTile)
                   : "memory");
}

template <int kC, int kA, int kB>
inline void TileMultiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// 32 numbers rounded to bf16: `low` in lanes 0-15, `high` in lanes 16-31.
inline __m512i RoundPair(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

}  // namespace sepia::kernels::cpu::amx::hardware
