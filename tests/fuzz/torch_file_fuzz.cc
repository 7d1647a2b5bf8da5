// Both containers of torch.save; the first byte chooses the mode. The same bytes are also read
// as a bare pickle, so that mutations reach the opcodes.
#include <string>
#include <vector>

#include "checkpoint/torch/torch_file.h"
#include "tests/fuzz/fuzz_input.h"

namespace sepia::fuzzing {
namespace {

void ReadTensors(const checkpoint::TorchFile& file) {
  const auto* dict = checkpoint::PointerTo<checkpoint::PickleDict>(file.root());
  if (dict == nullptr) return;
  for (const auto& [key, value] : dict->items) {
    const auto* tensor = checkpoint::PointerTo<checkpoint::TorchTensor>(value);
    if (tensor == nullptr || !IsFloating(tensor->storage->dtype)) continue;
    std::vector<float> values(static_cast<size_t>(tensor->shape.num_elements()));
    file.ReadFloats(*tensor, checkpoint::Rectangle::Whole(tensor->shape), values);
  }
}

}  // namespace
}  // namespace sepia::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sepia;
  if (size == 0) return 0;
  const auto mode =
      (data[0] & 1) != 0 ? checkpoint::PickleMode::kDeepSpeed : checkpoint::PickleMode::kWeights;
  const std::string path = fuzzing::InputFile("model.pt", data + 1, size - 1);
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  fuzzing::Feed([&] { checkpoint::ParsePickle(text, path, 0, {.mode = mode}); });
  return fuzzing::Feed([&] { fuzzing::ReadTensors(checkpoint::TorchFile(path, mode)); });
}
