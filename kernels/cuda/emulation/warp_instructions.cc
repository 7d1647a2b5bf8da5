#include "kernels/cuda/emulation/warp_instructions.h"

#include <algorithm>
#include <cstring>

#include "base/dtype.h"

namespace sepia::kernels::cuda::emulation {
namespace {

constexpr int kLanes = 32;

template <typename T>
float WidenHalf(uint32_t word, int half) {
  T value;
  value.bits = static_cast<uint16_t>(word >> (16 * half));
  return static_cast<float>(value);
}

template <typename T>
void ExecuteMma(Lane* lanes) {
  ++ThreadBlock::Current().counters().mma;
  alignas(32) float a[16][16];  // [row][k]
  alignas(32) float b[16][8];   // [k][column]
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const uint32_t* words = lanes[lane].words;
    for (int i = 0; i < 8; ++i) {
      a[g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = WidenHalf<T>(words[i / 2], i % 2);
    }
    for (int i = 0; i < 4; ++i) {
      b[2 * t + i % 2 + 8 * (i / 2)][g] = WidenHalf<T>(words[4 + i / 2], i % 2);
    }
  }
  for (int row = 0; row < 16; ++row) {
    float sum[8] = {};
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
    }
    for (int column = 0; column < 8; ++column) {
      Lane& owner = lanes[row % 8 * 4 + column / 2];
      owner.floats[row / 8 * 2 + column % 2] += sum[column];
    }
  }
}

// What each lane's address reads, before it is handed round.
struct Matrices {
  explicit Matrices(const Lane* lanes) {
    Counters& counters = ThreadBlock::Current().counters();
    ++counters.load_matrix;
    for (size_t m = 0; m < 4; ++m) {
      // Eight rows of 16 bytes make one wavefront if they lie in different groups of four banks.
      int in_group[8] = {};
      int most = 0;
      for (size_t row = 0; row < 8; ++row) {
        const void* from = lanes[m * 8 + row].row;
        std::memcpy(elements[m][row], from, 16);
        most = std::max(most, ++in_group[reinterpret_cast<uintptr_t>(from) / 16 % 8]);
      }
      counters.load_matrix_wavefronts += most;
    }
  }
  uint16_t elements[4][8][8];
};

}  // namespace

void ExecuteMmaBf16(Lane* lanes) { ExecuteMma<BFloat16>(lanes); }
void ExecuteMmaFp16(Lane* lanes) { ExecuteMma<Float16>(lanes); }

void ExecuteLoadMatrices(Lane* lanes) {
  const Matrices matrices(lanes);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int m = 0; m < 4; ++m) {
      const uint16_t* row = matrices.elements[m][lane / 4];
      lanes[lane].words[m] = row[lane % 4 * 2] | static_cast<uint32_t>(row[lane % 4 * 2 + 1]) << 16;
    }
  }
}

void ExecuteLoadMatricesTransposed(Lane* lanes) {
  const Matrices matrices(lanes);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int column = lane / 4, row = lane % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      const auto& matrix = matrices.elements[m];
      lanes[lane].words[m] = matrix[row][column] | static_cast<uint32_t>(matrix[row + 1][column])
                                                       << 16;
    }
  }
}

void ExecuteShuffleXor(Lane* lanes) {
  ++ThreadBlock::Current().counters().shuffles;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    lanes[lane].words[1] = lanes[(lane ^ lanes[lane].words[2]) % kLanes].words[0];
  }
}

void ExecuteShuffle(Lane* lanes) {
  ++ThreadBlock::Current().counters().shuffles;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    lanes[lane].words[1] = lanes[lanes[lane].words[2] % kLanes].words[0];
  }
}

void ExecuteBallot(Lane* lanes) {
  uint32_t votes = 0;
  for (uint32_t lane = 0; lane < kLanes; ++lane) votes |= (lanes[lane].words[0] & 1) << lane;
  for (uint32_t lane = 0; lane < kLanes; ++lane) lanes[lane].words[1] = votes;
}

}  // namespace sepia::kernels::cuda::emulation
