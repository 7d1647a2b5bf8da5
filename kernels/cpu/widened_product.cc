#include "kernels/cpu/widened_product.h"

#include <vector>

#include "kernels/cpu/isa/convert_rows.h"

namespace sepia::kernels::cpu {
namespace {

constexpr int64_t kBlock = 1024;

// Copies `rows` x `cols` of `from`, starting at (row, col), to fp32, in the same orientation.
MatrixRef WidenPanel(const MatrixRef& from, DType dtype, int64_t row, int64_t col, int64_t rows,
                     int64_t cols, float* to) {
  const bool row_major = from.col_stride == 1;
  const int64_t lines = row_major ? rows : cols;
  const int64_t length = row_major ? cols : rows;
  const int64_t stride = row_major ? from.row_stride : from.col_stride;
  const int64_t element_bytes = DTypeSize(dtype);
  const auto* source = static_cast<const std::byte*>(from.data) +
                       (row * from.row_stride + col * from.col_stride) * element_bytes;
  for (int64_t line = 0; line < lines; ++line) {
    SEPIA_BY_ISA(WidenRow)
    (dtype, source + line * stride * element_bytes, length, to + line * length);
  }
  return row_major ? MatrixRef{to, length, 1} : MatrixRef{to, 1, length};
}

}  // namespace

void MultiplyWidened(const TileProduct& product, void (*multiply_f32)(const TileProduct&)) {
  static thread_local std::vector<float> panels;
  const int64_t block = product.k < kBlock ? product.k : kBlock;
  panels.resize(static_cast<size_t>((product.m + product.n) * block));
  for (int64_t begin = 0; begin < product.k; begin += block) {
    const int64_t depth = begin + block < product.k ? block : product.k - begin;
    TileProduct part = product;
    part.k = depth;
    part.dtype = DType::kFloat32;
    part.a = WidenPanel(product.a, product.dtype, 0, begin, product.m, depth, panels.data());
    part.b = WidenPanel(product.b, product.dtype, begin, 0, depth, product.n,
                        panels.data() + product.m * block);
    part.accumulate = product.accumulate || begin > 0;
    multiply_f32(part);
  }
}

}  // namespace sepia::kernels::cpu
