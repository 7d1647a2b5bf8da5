#include "data/tokenizer/tokenizer.h"

#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = sepia::fuzzing::InputFile("tokenizer.json", data, size);
  return sepia::fuzzing::Feed([&] {
    const auto tokenizer = sepia::data::Tokenizer::Load(path);
    tokenizer.Decode(tokenizer.Encode("A text, with 12 words; it's  short."), false);
  });
}
