#include "data/npy.h"

#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = sepia::fuzzing::InputFile("map.npy", data, size);
  return sepia::fuzzing::Feed([&] { const sepia::data::NpyFile file(path); });
}
