// A vocabulary that is cut over the ranks of a tensor group.
#pragma once

#include <cstdint>

namespace sepia::kernels {

// Which of `num_parts` equal parts a matrix with one row a token holds. The default is all of it.
struct VocabularyPart {
  int part = 0;
  int num_parts = 1;

  // Token of row 0, when the part has `rows` rows.
  int64_t first(int64_t rows) const { return part * rows; }
  int64_t vocab_size(int64_t rows) const { return num_parts * rows; }
};

}  // namespace sepia::kernels
