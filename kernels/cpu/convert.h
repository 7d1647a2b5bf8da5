// Pieces of rows as fp32, for loops that are the same for every dtype.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/dtype.h"
#include "kernels/cpu/isa/convert_rows.h"

namespace sepia::kernels::cpu {

template <typename T>
void Widen(const T* from, float* to, int64_t count) {
  SEPIA_BY_ISA(WidenRow)(DTypeOf<T>::value, from, count, to);
}

template <typename T>
void Narrow(const float* from, T* to, int64_t count) {
  SEPIA_BY_ISA(NarrowRow)(DTypeOf<T>::value, from, count, to);
}

// The elements as fp32: themselves when they are fp32 already, else widened into `buffer`.
template <typename T>
const float* AsFloat(const T* from, float* buffer, int64_t count) {
  if constexpr (std::is_same_v<T, float>) {
    return from;
  } else {
    Widen(from, buffer, count);
    return buffer;
  }
}

// Ops walk rows in pieces of at most this many elements, widened in buffers on the stack.
inline constexpr int64_t kPiece = 512;

// fn(begin, count) over consecutive pieces of [0, size).
template <typename Fn>
void ForEachPiece(int64_t size, const Fn& fn) {
  for (int64_t begin = 0; begin < size; begin += kPiece) {
    fn(begin, begin + kPiece < size ? kPiece : size - begin);
  }
}

}  // namespace sepia::kernels::cpu
