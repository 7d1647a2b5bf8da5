#include "checkpoint/export/value_stream.h"

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/elements.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kBlockElements = 4 << 20;

void CheckNoOverflow(const SourceTensor& tensor, std::span<const float> values,
                     std::span<const std::byte> narrowed, DType dtype) {
  std::vector<float> widened(values.size());
  WidenToFloats(dtype, narrowed, widened);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && !std::isfinite(widened[i])) {
      throw UserError(fmt::format("tensor '{}' holds {}, which {} cannot; use --dtype bf16 or f32",
                                  tensor.name, values[i], DTypeName(dtype)));
    }
  }
}

}  // namespace

void ForEachBlock(const ModelSource& source, const SourceTensor& tensor, Role role, DType dtype,
                  const std::function<void(const ValueBlock&)>& take) {
  ForEachPart(source, tensor, role, dtype,
              SplitContiguously(Rectangle::Whole(tensor.shape), kBlockElements), take);
}

void ForEachPart(const ModelSource& source, const SourceTensor& tensor, Role role, DType dtype,
                 std::span<const Rectangle> parts,
                 const std::function<void(const ValueBlock&)>& take) {
  std::vector<float> values;
  std::vector<std::byte> narrowed;
  int64_t begin = 0;
  for (const Rectangle& part : parts) {
    const auto size = static_cast<size_t>(part.num_elements());
    values.resize(size);
    narrowed.resize(size * static_cast<size_t>(DTypeSize(dtype)));
    source.ReadPart(tensor.name, part, TensorView::Of(std::span(values), part.extent), role);
    NarrowFromFloats(values, dtype, narrowed);
    if (dtype != DType::kFloat32) CheckNoOverflow(tensor, values, narrowed, dtype);
    take({begin, part, narrowed});
    begin += part.num_elements();
  }
}

std::vector<std::string> TokenizerFiles(const ModelSource& source) {
  std::vector<std::string> files;
  const std::string tokenizer = source.tokenizer_path();
  if (tokenizer.empty()) return files;
  files.push_back(tokenizer);
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                           "vocab.json", "merges.txt"}) {
    const std::string path = DirectoryOf(tokenizer) + "/" + name;
    if (FileExists(path)) files.push_back(path);
  }
  return files;
}

}  // namespace sepia::checkpoint
