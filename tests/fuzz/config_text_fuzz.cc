// A config: the text-proto reader and the checks behind it. The one file that a config makes them
// open, init_from.path, is taken away.
#include <string>

#include "tests/fuzz/fuzz_input.h"
#include "trainer/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  return sepia::fuzzing::Feed([&] {
    sepia::trainer::LoadConfigText(text, "fuzz", {"init_from.path="},
                                   {.for_training = false, .allow_missing_files = true});
  });
}
