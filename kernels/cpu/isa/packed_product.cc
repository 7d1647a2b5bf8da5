#include "kernels/cpu/isa/packed_product.h"

#include "kernels/cpu/isa/tile_product.h"
#include "kernels/cpu/isa/transpose.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

// A block of the depth: terms [begin, begin + depth) of every sum.
struct DepthBlock {
  int64_t begin, depth;
};

const float* At(const MatrixRef& matrix, int64_t row, int64_t col) {
  return static_cast<const float*>(matrix.data) + row * matrix.row_stride + col * matrix.col_stride;
}

// Rows [row, row + kTileRows) of a as [depth, kTileRows]; rows beyond m are zero.
void PackRows(const TileProduct& product, const DepthBlock& block, int64_t row, float* packed) {
  const MatrixRef& a = product.a;
  for (int r = 0; r < kTileRows; ++r) {
    if (row + r >= product.m) {
      for (int64_t s = 0; s < block.depth; ++s) packed[s * kTileRows + r] = 0.0f;
      continue;
    }
    const float* from = At(a, row + r, block.begin);
    for (int64_t s = 0; s < block.depth; ++s) packed[s * kTileRows + r] = from[s * a.col_stride];
  }
}

// Columns [col, col + kPanelWidth) of b as [depth, kPanelWidth]; columns beyond n are zero.
void PackPanel(const TileProduct& product, const DepthBlock& block, int64_t col, float* packed) {
  const MatrixRef& b = product.b;
  const int64_t left = product.n - col;
  const int64_t columns = left < kPanelWidth ? left : kPanelWidth;
  if (b.row_stride == 1 && columns == kPanelWidth && block.depth % 8 == 0) {
    for (int64_t s = 0; s < block.depth; s += 8) {
      for (int64_t j = 0; j < kPanelWidth; j += 8) {
        Transpose8x8(At(b, block.begin + s, col + j), b.col_stride, packed + s * kPanelWidth + j,
                     kPanelWidth);
      }
    }
    return;
  }
  for (int64_t s = 0; s < block.depth; ++s) {
    const float* from = At(b, block.begin + s, col);
    float* to = packed + s * kPanelWidth;
    for (int64_t j = 0; j < columns; ++j) to[j] = from[j * b.col_stride];
    for (int64_t j = columns; j < kPanelWidth; ++j) to[j] = 0.0f;
  }
}

// One register tile of c: in place, or beside it at the edges.
void MultiplyTileOfC(const TileProduct& product, int64_t row, int64_t col, int64_t depth, bool add,
                     const float* a, const float* b, float* edge) {
  float* c = product.c + row * product.c_row_stride + col;
  const auto zero = [](int, int) { return Zero(); };
  const auto multiply = [&](const auto& start, float* to, int64_t row_stride) {
    MultiplyBlock<kTileRows, 2, 1, kTileRows>(depth, a, b, {kPanelWidth, kLanes}, start,
                                              [&](int r, const Vec* sum) {
                                                Store(to + r * row_stride, sum[0]);
                                                Store(to + r * row_stride + kLanes, sum[1]);
                                              });
  };
  if (row + kTileRows <= product.m && col + kPanelWidth <= product.n) {
    if (add) {
      const auto old = [&](int r, int v) {
        return Load(c + r * product.c_row_stride + v * kLanes);
      };
      multiply(old, c, product.c_row_stride);
    } else {
      multiply(zero, c, product.c_row_stride);
    }
    return;
  }
  multiply(zero, edge, kPanelWidth);
  for (int r = 0; r < kTileRows && row + r < product.m; ++r) {
    for (int64_t j = 0; j < kPanelWidth && col + j < product.n; ++j) {
      float& to = c[r * product.c_row_stride + j];
      to = add ? to + edge[r * kPanelWidth + j] : edge[r * kPanelWidth + j];
    }
  }
}

}  // namespace

void PackedProduct(const TileProduct& product, float* workspace) {
  const int64_t padded_rows = (product.m + kTileRows - 1) / kTileRows * kTileRows;
  float* rows = workspace;
  float* panel = rows + padded_rows * kPackedDepth;
  float* edge = panel + kPanelWidth * kPackedDepth;
  for (int64_t begin = 0; begin < product.k; begin += kPackedDepth) {
    const int64_t left = product.k - begin;
    const DepthBlock block{begin, left < kPackedDepth ? left : kPackedDepth};
    const bool add = product.accumulate || begin > 0;
    for (int64_t row = 0; row < product.m; row += kTileRows) {
      PackRows(product, block, row, rows + row * kPackedDepth);
    }
    for (int64_t col = 0; col < product.n; col += kPanelWidth) {
      PackPanel(product, block, col, panel);
      for (int64_t row = 0; row < product.m; row += kTileRows) {
        MultiplyTileOfC(product, row, col, block.depth, add, rows + row * kPackedDepth, panel,
                        edge);
      }
    }
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
