// The first bytes are the .idx, the rest the .bin: the first byte says where the cut is.
#include "data/indexed_dataset.h"

#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t cut = 1 + (size - 1) * data[0] / 255;
  std::string prefix = sepia::fuzzing::InputFile("corpus.idx", data + 1, cut - 1);
  sepia::fuzzing::InputFile("corpus.bin", data + cut, size - cut);
  prefix.resize(prefix.size() - 4);
  return sepia::fuzzing::Feed([&] { const sepia::data::IndexedDataset dataset(prefix); });
}
