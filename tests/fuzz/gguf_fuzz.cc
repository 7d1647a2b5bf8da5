#include "checkpoint/gguf/gguf_source.h"

#include <vector>

#include "checkpoint/gguf/gguf_file.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sepia;
  const std::string path = fuzzing::InputFile("model.gguf", data, size);
  fuzzing::Feed([&] { checkpoint::GgufFile file(path); });
  return fuzzing::Feed([&] {
    const auto source = checkpoint::OpenGguf(path);
    for (const checkpoint::SourceTensor& tensor : source->tensors()) {
      std::vector<float> values(static_cast<size_t>(tensor.shape.num_elements()));
      source->ReadTensor(tensor.name, TensorView::Of(std::span(values), tensor.shape));
    }
  });
}
