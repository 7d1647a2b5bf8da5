#include "checkpoint/safetensors.h"

#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = sepia::fuzzing::InputFile("model.safetensors", data, size);
  return sepia::fuzzing::Feed([&] {
    const sepia::checkpoint::SafetensorsFile file(path);
    for (const auto& entry : file.entries()) {
      if (!sepia::IsFloating(entry.dtype)) continue;
      std::vector<float> values(static_cast<size_t>(entry.shape.num_elements()));
      file.ReadFloats(entry, values);
    }
  });
}
