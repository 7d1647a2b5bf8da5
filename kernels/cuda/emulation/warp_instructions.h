// What warp collectives compute from the operands of 32 lanes (lanes[i].words, floats, row).
// Layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix"; checked against values
// worked out by hand in tests/cuda/emulation_test.cc.
#pragma once

#include "kernels/cuda/emulation/thread_block.h"

namespace sepia::kernels::cuda::emulation {

// floats += A B; words[0..3] = A, words[4..5] = B. Products exact, sums in fp32 in order of k:
// hardware leaves order and rounding of the sum open.
void ExecuteMmaBf16(Lane* lanes);
void ExecuteMmaFp16(Lane* lanes);
// words[0..3] = four 8x8 matrices of 16-bit elements; row of lane l = row l % 8 of matrix l / 8.
void ExecuteLoadMatrices(Lane* lanes);
void ExecuteLoadMatricesTransposed(Lane* lanes);
// words[1] = words[0] of lane `lane ^ words[2]`; of lane words[2]; bit l = words[0] of lane l.
void ExecuteShuffleXor(Lane* lanes);
void ExecuteShuffle(Lane* lanes);
void ExecuteBallot(Lane* lanes);

}  // namespace sepia::kernels::cuda::emulation
