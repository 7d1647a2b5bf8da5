#include "tests/model/fixture_case.h"

#include <algorithm>
#include <filesystem>

#include <fmt/core.h>
#include <google/protobuf/text_format.h>

#include "base/buffer.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "model/model_config.pb.h"

namespace sepia::testing {
namespace {

// The attention of a case by its name; see fixtures/README.md.
std::string AttentionText(const std::string& name, int64_t num_layers) {
  if (name == "full") return "kind: FULL";
  if (name == "sep_n8") return "kind: SEP window: 8";
  if (name == "sep_n64") return "kind: SEP window: 64";
  if (name == "sep_n8_H") return "kind: SEP window: 8 full_layers: 0";
  if (name == "sep_n8_HT") return "kind: SEP window: 8 full_layers: [0, -1]";
  if (name == "strm_n16") return "kind: STREAMING window: 16 num_initial: 4";
  if (name == "fix_d5_n8") return "kind: FIXED_STRIDE stride: 5 window: 8";
  if (name == "sep_n1_a0") return "kind: SEP window: 1 num_initial: 0";
  CHECK(name == "per_layer", "unknown fixture case {}", name);
  std::string text = "kind: SEP";
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    text += fmt::format(" window_per_layer: {} num_initial_per_layer: {}", 4 + 6 * layer, layer);
  }
  return text;
}

// A name that begins with "erf_" is a case of the same weights with the other activation.
model::ModelConfig LoadConfig(const checkpoint::ModelSource& source, std::string name) {
  config::ModelConfig proto;
  source.FillModelConfig(&proto);
  if (name.starts_with("erf_")) {
    proto.set_activation(config::ERF_GELU);
    name = name.substr(4);
  }
  CHECK(google::protobuf::TextFormat::ParseFromString(AttentionText(name, proto.num_layers()),
                                                      proto.mutable_attention()));
  std::vector<std::string> faults;
  model::ModelConfig config = model::ResolveModelConfig(proto, &faults);
  CHECK(faults.empty(), "{}", faults.front());
  return config;
}

std::vector<int32_t> Tokens(const checkpoint::SafetensorsFile& file, const std::string& name) {
  const std::vector<int64_t> wide = file.ReadIntegers(file.Get(name));
  return {wide.begin(), wide.end()};
}

}  // namespace

FixtureCase LoadFixtureCase(const std::string& folder, const std::string& name) {
  FixtureCase result;
  const std::unique_ptr<checkpoint::ModelSource> source = checkpoint::OpenModelSource(folder);
  result.config = LoadConfig(*source, name);
  for (const checkpoint::SourceTensor& tensor : source->tensors()) {
    std::vector<float>& values = result.weights[tensor.name];
    values.resize(static_cast<size_t>(tensor.shape.num_elements()));
    source->ReadTensor(tensor.name, TensorView::Of(std::span(values), tensor.shape));
  }

  const checkpoint::SafetensorsFile file(folder + "/" + name + ".safetensors");
  const auto floats = [&](const checkpoint::SafetensorsEntry& entry) {
    std::vector<float> values(static_cast<size_t>(entry.shape.num_elements()));
    file.ReadFloats(entry, values);
    return values;
  };
  const Shape shape = file.Get("tokens").shape;
  result.batch =
      MakeBatch(result.config, Tokens(file, "tokens"), Tokens(file, "targets"), shape[0], shape[1]);
  result.expected.logits = floats(file.Get("logits"));
  result.expected.loss = static_cast<double>(floats(file.Get("loss"))[0]);
  for (const checkpoint::SafetensorsEntry& entry : file.entries()) {
    if (entry.name.starts_with("grad.")) {
      result.expected.grads[entry.name.substr(5)] = floats(entry);
    }
  }
  if (const checkpoint::SafetensorsEntry* mask = file.Find("mask")) {
    for (const int64_t seen : file.ReadIntegers(*mask)) {
      result.mask.push_back(static_cast<uint8_t>(seen));
    }
  }
  return result;
}

std::vector<std::string> FixtureCaseNames(const std::string& root) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() != ".safetensors" || stem == "model" || stem.starts_with("adamw"))
      continue;
    names.push_back(entry.path().parent_path().filename().string() + "/" + stem);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace sepia::testing
