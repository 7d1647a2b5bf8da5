// An operand of matrix products for tests: held as it is or transposed, part of a larger matrix.
#pragma once

#include <vector>

#include "kernels/cpu/gemm_tile.h"
#include "tests/kernels/op_test.h"

namespace sepia::kernels::testing {

struct Operand {
  OwnedTensor tensor;
  cpu::MatrixRef ref;
  std::vector<double> values;  // row-major
};

// [rows, cols], held transposed or not, as the corner of a matrix with 3 more in each direction.
inline Operand MakeOperand(DType dtype, int64_t rows, int64_t cols, bool transposed,
                           uint64_t seed) {
  const int64_t lines = transposed ? cols : rows;
  const int64_t length = (transposed ? rows : cols) + 3;
  Operand operand{RandomTensor(dtype, {lines, length}, seed), {}, {}};
  operand.ref = {operand.tensor.view().raw(), length, 1};
  if (transposed) operand.ref = operand.ref.Transposed();
  const std::vector<double> held = Values(operand.tensor);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t at = i * operand.ref.row_stride + j * operand.ref.col_stride;
      operand.values.push_back(held[static_cast<size_t>(at)]);
    }
  }
  return operand;
}

}  // namespace sepia::kernels::testing
