// Functions that are compiled once per instruction set, and the choice between them.
//
// A source file of this folder is compiled twice, with SEPIA_ISA = avx2 or avx512, and puts
// everything into the namespace of that name, so that no inline function of one instruction set can
// stand in for another's at link time. Its header declares the entry points once:
//
//   SEPIA_PER_ISA(void ScaleRow(const float* x, float factor, int64_t size, float* y);)
//
// its source defines them:
//
//   namespace sepia::kernels::cpu::SEPIA_ISA {
//   void ScaleRow(...) { ... }
//   }
//
// and ordinary code, in namespace sepia::kernels::cpu, calls SEPIA_BY_ISA(ScaleRow)(x, 2, n, y).
#pragma once

#include "kernels/cpu/cpu_features.h"

#define SEPIA_PER_ISA(...)                \
  namespace sepia::kernels::cpu::avx2 {   \
  __VA_ARGS__                             \
  }                                       \
  namespace sepia::kernels::cpu::avx512 { \
  __VA_ARGS__                             \
  }

// The function of that name for the running machine.
#define SEPIA_BY_ISA(function)                                               \
  (::sepia::kernels::cpu::ActiveIsa() >= ::sepia::kernels::cpu::Isa::kAvx512 \
       ? ::sepia::kernels::cpu::avx512::function                             \
       : ::sepia::kernels::cpu::avx2::function)
