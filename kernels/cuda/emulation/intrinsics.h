// The functions of kernels/cuda/intrinsics.cuh on host fibers. Included by that file alone.
// `site` is a default argument, evaluated where a kernel calls.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "kernels/cuda/emulation/thread_block.h"
#include "kernels/cuda/emulation/warp_instructions.h"

#define SEPIA_DEVICE inline
#define SEPIA_KERNEL(threads, blocks) void

namespace sepia::kernels::cuda {

using emulation::Site;
using emulation::ThreadBlock;

inline int ThreadIndex() { return ThreadBlock::Current().lane().thread; }
inline int BlockIndexX() { return static_cast<int>(ThreadBlock::Current().index().x); }
inline int BlockIndexY() { return static_cast<int>(ThreadBlock::Current().index().y); }
inline int BlockIndexZ() { return static_cast<int>(ThreadBlock::Current().index().z); }
inline int GridSizeX() { return static_cast<int>(ThreadBlock::Current().grid().x); }
inline int GridSizeY() { return static_cast<int>(ThreadBlock::Current().grid().y); }

inline uint8_t* SharedMemory() { return ThreadBlock::Current().shared(); }

inline void SyncThreads(Site site = Site::Current()) { ThreadBlock::Current().Barrier(site); }

template <typename T>
T LoadGlobal(const T* from, Site site = Site::Current()) {
  ThreadBlock::Current().CheckGlobal("read", from, sizeof(T), site);
  return *from;
}
template <typename T>
void StoreGlobal(T* to, std::type_identity_t<T> value, Site site = Site::Current()) {
  ThreadBlock::Current().CheckGlobal("write", to, sizeof(T), site);
  *to = value;
}
template <typename T>
T LoadShared(const T* from, Site site = Site::Current()) {
  ThreadBlock::Current().CheckSharedRead(from, sizeof(T), site);
  return *from;
}
template <typename T>
void StoreShared(T* to, std::type_identity_t<T> value, Site site = Site::Current()) {
  ThreadBlock::Current().CheckSharedWrite(to, sizeof(T), site);
  *to = value;
}

inline void AsyncCopy16(void* to, const void* from, bool valid, Site site = Site::Current()) {
  ThreadBlock::Current().StartAsyncCopy(to, from, valid, 16, site);
}
inline void AsyncCopy8(void* to, const void* from, bool valid, Site site = Site::Current()) {
  ThreadBlock::Current().StartAsyncCopy(to, from, valid, 8, site);
}
inline void AsyncCommit() { ++ThreadBlock::Current().lane().open_group; }
template <int kPending>
void AsyncWait() {
  ThreadBlock::Current().WaitAsyncCopies(kPending);
}

namespace emulation {

inline void LoadMatricesBy(ThreadBlock::Execute execute, const char* name, uint32_t (&r)[4],
                           const void* row, Site site) {
  ThreadBlock& block = ThreadBlock::Current();
  block.CheckSharedRead(row, 16, site, false);
  Lane& lane = block.lane();
  lane.row = row;
  block.Collective(name, execute, site);
  std::memcpy(r, lane.words, sizeof(r));
}

inline void MultiplyAddBy(ThreadBlock::Execute execute, float (&c)[4], const uint32_t (&a)[4],
                          const uint32_t* b, Site site) {
  ThreadBlock& block = ThreadBlock::Current();
  Lane& lane = block.lane();
  std::memcpy(lane.words, a, sizeof(a));
  std::memcpy(lane.words + 4, b, 2 * sizeof(uint32_t));
  std::memcpy(lane.floats, c, sizeof(c));
  block.Collective("mma", execute, site);
  std::memcpy(c, lane.floats, sizeof(c));
}

inline uint32_t ExchangeBy(ThreadBlock::Execute execute, const char* name, uint32_t value,
                           uint32_t control, Site site) {
  ThreadBlock& block = ThreadBlock::Current();
  Lane& lane = block.lane();
  lane.words[0] = value;
  lane.words[2] = control;
  block.Collective(name, execute, site);
  return lane.words[1];
}

}  // namespace emulation

inline void LoadMatrices(uint32_t (&r)[4], const void* row, Site site = Site::Current()) {
  emulation::LoadMatricesBy(emulation::ExecuteLoadMatrices, "ldmatrix", r, row, site);
}
inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row, Site site = Site::Current()) {
  emulation::LoadMatricesBy(emulation::ExecuteLoadMatricesTransposed, "ldmatrix.trans", r, row,
                            site);
}

inline void MultiplyAdd(Bf16, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b,
                        Site site = Site::Current()) {
  emulation::MultiplyAddBy(emulation::ExecuteMmaBf16, c, a, b, site);
}
inline void MultiplyAdd(Fp16, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b,
                        Site site = Site::Current()) {
  emulation::MultiplyAddBy(emulation::ExecuteMmaFp16, c, a, b, site);
}

template <typename T>
T ShuffleXor(T value, int mask, Site site = Site::Current()) {
  return std::bit_cast<T>(emulation::ExchangeBy(emulation::ExecuteShuffleXor, "shfl.bfly",
                                                std::bit_cast<uint32_t>(value),
                                                static_cast<uint32_t>(mask), site));
}
template <typename T>
T Shuffle(T value, int lane, Site site = Site::Current()) {
  return std::bit_cast<T>(emulation::ExchangeBy(emulation::ExecuteShuffle, "shfl.idx",
                                                std::bit_cast<uint32_t>(value),
                                                static_cast<uint32_t>(lane), site));
}
inline uint32_t Ballot(bool vote, Site site = Site::Current()) {
  return emulation::ExchangeBy(emulation::ExecuteBallot, "vote", vote ? 1 : 0, 0, site);
}

inline float Exp2(float x) {
  ++ThreadBlock::Current().counters().exp2;
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}
inline float Log2(float x) { return std::log2(x); }

inline uint32_t Pack(Bf16, float low, float high) {
  return BFloat16::FromFloat(low) | static_cast<uint32_t>(BFloat16::FromFloat(high)) << 16;
}
inline uint32_t Pack(Fp16, float low, float high) {
  return Float16::FromFloat(low) | static_cast<uint32_t>(Float16::FromFloat(high)) << 16;
}
inline uint32_t FloatBits(float x) { return std::bit_cast<uint32_t>(x); }
inline float FloatOfBits(uint32_t bits) { return std::bit_cast<float>(bits); }
inline float Widen(Bf16, uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
inline float Widen(Fp16, uint16_t bits) { return Float16::ToFloat(bits); }

}  // namespace sepia::kernels::cuda
