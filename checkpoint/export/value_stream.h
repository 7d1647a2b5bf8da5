// Reads the tensors of a source in blocks, so that exporting never holds a whole model.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// A part of a tensor, row-major, as `dtype`.
struct ValueBlock {
  int64_t begin = 0;  // elements of the parts before it
  Rectangle part;
  std::span<const std::byte> bytes;
};

// Calls `take` for every block of the tensor, in order, narrowed to `dtype`. Throws
// UserError(kUsage) when a finite value has no finite image (fp16 ends at 65504).
void ForEachBlock(const ModelSource& source, const SourceTensor& tensor, Role role, DType dtype,
                  const std::function<void(const ValueBlock&)>& take);

// The same for `parts` of the tensor, in their order.
void ForEachPart(const ModelSource& source, const SourceTensor& tensor, Role role, DType dtype,
                 std::span<const Rectangle> parts,
                 const std::function<void(const ValueBlock&)>& take);

// The attachments of a converted model: tokenizer files that lie beside source.tokenizer_path().
std::vector<std::string> TokenizerFiles(const ModelSource& source);

}  // namespace sepia::checkpoint
