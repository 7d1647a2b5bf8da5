// Everything that kernels take from the hardware: thread numbers, shared memory, barriers, warp
// collectives, asynchronous copies, and memory access that emulation can watch. The only file with
// inline assembly; kernels contain none, nor raw __shared__ or <<<>>>. Emulation provides the same
// functions on host fibers (emulation/intrinsics.h).
//
// Fragment layouts: PTX ISA, "mma.m16n8k16" and "ldmatrix". With g = lane / 4, t = lane % 4:
//   A [16 x 16], 4 registers: rows g, g + 8, g, g + 8; columns 2t, 2t + 1, the last two + 8
//   B [16 x 8],  2 registers: rows 2t, 2t + 1, the second + 8; column g
//   C [16 x 8],  4 floats: rows g, g, g + 8, g + 8; columns 2t, 2t + 1
#pragma once

#include <cstdint>

namespace sepia::kernels::cuda {

// Tags of the two 16-bit formats; memory holds them as uint16_t.
struct Bf16 {};
struct Fp16 {};

struct alignas(16) Vec4 {
  uint32_t x, y, z, w;
};
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};

}  // namespace sepia::kernels::cuda

#ifdef SEPIA_CUDA_EMULATED
#include "kernels/cuda/emulation/intrinsics.h"
#else

#define SEPIA_DEVICE __device__ __forceinline__
// `threads` a block at most; at least `blocks` of them fit on a multiprocessor.
#define SEPIA_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

namespace sepia::kernels::cuda {

SEPIA_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
SEPIA_DEVICE int BlockIndexX() { return static_cast<int>(blockIdx.x); }
SEPIA_DEVICE int BlockIndexY() { return static_cast<int>(blockIdx.y); }
SEPIA_DEVICE int BlockIndexZ() { return static_cast<int>(blockIdx.z); }
SEPIA_DEVICE int GridSizeX() { return static_cast<int>(gridDim.x); }
SEPIA_DEVICE int GridSizeY() { return static_cast<int>(gridDim.y); }

// The dynamic shared memory of the launch, 128-byte aligned.
SEPIA_DEVICE uint8_t* SharedMemory() {
  extern __shared__ __align__(128) uint8_t sepia_shared_memory[];
  return sepia_shared_memory;
}

SEPIA_DEVICE void SyncThreads() { __syncthreads(); }

template <typename T>
SEPIA_DEVICE T LoadGlobal(const T* from) {
  return *from;
}
template <typename T>
SEPIA_DEVICE void StoreGlobal(T* to, T value) {
  *to = value;
}
template <typename T>
SEPIA_DEVICE T LoadShared(const T* from) {
  return *from;
}
template <typename T>
SEPIA_DEVICE void StoreShared(T* to, T value) {
  *to = value;
}

SEPIA_DEVICE uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 (8) bytes from global to shared memory, or writes zeros; past `from` nothing is read
// when !valid. Complete after AsyncWait, visible to other threads after SyncThreads.
SEPIA_DEVICE void AsyncCopy16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
SEPIA_DEVICE void AsyncCopy8(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(valid ? 8 : 0)
               : "memory");
}
SEPIA_DEVICE void AsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending committed groups of this thread are unfinished.
template <int kPending>
SEPIA_DEVICE void AsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
SEPIA_DEVICE void LoadMatrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}
SEPIA_DEVICE void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// c += a b; b points to two registers.
SEPIA_DEVICE void MultiplyAdd(Bf16, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
SEPIA_DEVICE void MultiplyAdd(Fp16, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <typename T>
SEPIA_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
SEPIA_DEVICE T Shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
SEPIA_DEVICE uint32_t Ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }

// 2^x and log2(x), about 2 ulp, subnormals flushed to zero.
SEPIA_DEVICE float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SEPIA_DEVICE float Log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Rounds both to nearest even; `low` lands in the lower half.
SEPIA_DEVICE uint32_t Pack(Bf16, float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
SEPIA_DEVICE uint32_t Pack(Fp16, float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
SEPIA_DEVICE uint32_t FloatBits(float x) { return __float_as_uint(x); }
SEPIA_DEVICE float FloatOfBits(uint32_t bits) { return __uint_as_float(bits); }
SEPIA_DEVICE float Widen(Bf16, uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
SEPIA_DEVICE float Widen(Fp16, uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

}  // namespace sepia::kernels::cuda

#endif
