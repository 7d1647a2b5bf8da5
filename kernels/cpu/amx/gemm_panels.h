// Products of bf16 panels on tiles. A panel is 32 rows of a left operand, or 32 columns of a right
// one, over some depth; packed, it is a sequence of steps of 32 along the depth, each step two
// tiles (2 KB). Plain pointers, no checks, no threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace sepia::kernels::cpu::amx {

inline constexpr int64_t kPanelLines = 32;
inline constexpr int64_t kPanelStep = 32;
inline constexpr int64_t kStepBytes = 2048;
inline constexpr int64_t kBlockFloats = 32 * 32;

// Element (line, p) lies at data + line * line_stride + p * depth_stride; one stride is 1. Lines
// are the rows of a left operand, the columns of a right one.
struct PanelSource {
  const BFloat16* data;
  int64_t line_stride, depth_stride;
  int64_t lines;  // at most kPanelLines; the rest is packed as zero
  int64_t depth;  // packed as a multiple of kPanelStep, with zeros
};

// Where finished sums go: out = sums (+ out) (+ bias), rounded once.
struct GemmResult {
  int64_t rows, cols;  // rows: at most kPanelLines; cols: of all blocks
  void* out;           // row 0
  bool is_bf16;        // else fp32
  int64_t stride;      // elements from row to row
  const float* bias;   // [cols], or null
  bool accumulate;
};

// sums[j] (+)= left right[j] for consecutive right panels j; at the end of the depth into `result`.
struct PanelProducts {
  int64_t steps;
  const std::byte* left;
  const std::byte* right;
  int64_t num_right;
  float* sums;          // blocks of 2 x 2 tiles
  int64_t sums_stride;  // floats from one block to the next; 0: blocks that end here need only one
  bool accumulate;
  bool is_last;
  GemmResult result;
  PanelSource prefetched;  // the left panel that is packed next; lines = 0: none
};

// The entry points of one tile unit.
struct GemmCode {
  void (*pack_left)(const PanelSource& source, std::byte* panel);
  void (*pack_right)(const PanelSource& source, std::byte* panel);
  void (*multiply)(const PanelProducts& products);
};

namespace hardware {
extern const GemmCode kGemmCode;
}
namespace emulated {
extern const GemmCode kGemmCode;
}

}  // namespace sepia::kernels::cpu::amx
