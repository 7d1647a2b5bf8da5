// Pieces of a GPT-NeoX folder. First byte 0: a YAML config. Otherwise two pickles, those of an
// optimizer file and of its mp_rank file; the first byte says where the cut is. They are put into
// archives that fit, with storages "0" to "2" of 64 floats, because what lies behind the checksums
// is to be tested.
#include <string>
#include <vector>

#include "checkpoint/neox/neox_config.h"
#include "checkpoint/neox/neox_optimizer.h"
#include "checkpoint/neox/neox_state.h"
#include "checkpoint/neox/yaml.h"
#include "checkpoint/torch/torch_writer.h"
#include "model/model_config.pb.h"
#include "tests/fuzz/fuzz_input.h"

namespace sepia::fuzzing {
namespace {

std::unique_ptr<checkpoint::TorchFile> Archive(const std::string& name, const std::string& pickle) {
  const std::string path = InputFile(name, nullptr, 0);
  std::vector<checkpoint::TorchMember> members = {checkpoint::TextMember("data.pkl", pickle),
                                                  checkpoint::TextMember("version", "3\n")};
  for (const char* key : {"data/0", "data/1", "data/2"}) {
    members.push_back(checkpoint::TextMember(key, std::string(256, '\0')));
  }
  checkpoint::WriteTorchArchive(path, "a", members);
  return std::make_unique<checkpoint::TorchFile>(path, checkpoint::PickleMode::kDeepSpeed);
}

void ReadConfig(const std::string& text) {
  config::ModelConfig model;
  checkpoint::FillNeoxModelConfig(checkpoint::ParseYamlObject(text, "run.yml"), "run.yml", &model);
}

void ReadOptimizer(const std::string& optimizer_pickle, const std::string& states_pickle) {
  checkpoint::NeoxRankFiles files;
  files.optimizers.push_back(Archive("zero.pt", optimizer_pickle));
  files.states = Archive("mp_rank.pt", states_pickle);
  const checkpoint::NeoxOptimizer optimizer(files);
  for (const auto& [name, shape] : optimizer.shapes()) {
    std::vector<float> values(static_cast<size_t>(shape.num_elements()));
    optimizer.Read(name, checkpoint::Role::kExpAvg, checkpoint::Rectangle::Whole(shape), values);
  }
  checkpoint::ReadNeoxState(files, {});
}

}  // namespace
}  // namespace sepia::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sepia;
  if (size == 0) return 0;
  const std::string input(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 0) return fuzzing::Feed([&] { fuzzing::ReadConfig(input); });
  const size_t cut = input.size() * data[0] / 255;
  return fuzzing::Feed([&] { fuzzing::ReadOptimizer(input.substr(0, cut), input.substr(cut)); });
}
