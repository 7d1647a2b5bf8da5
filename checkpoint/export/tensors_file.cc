#include "checkpoint/export/tensors_file.h"

#include <map>
#include <vector>

#include "base/check.h"
#include "checkpoint/export/value_stream.h"
#include "checkpoint/safetensors.h"

namespace sepia::checkpoint {

void ExportTensorsFile(const ModelSource& source, const std::string& path) {
  std::vector<SafetensorsSpec> specs;
  std::map<std::string, std::pair<std::string, Role>> origin;  // by name in the file
  for (const Role role : {Role::kMaster, Role::kExpAvg, Role::kExpAvgSq}) {
    if (!source.Has(role)) continue;
    for (const SourceTensor& tensor : source.tensors()) {
      specs.push_back(
          {fmt::format("{}.{}", RoleName(role), tensor.name), DType::kFloat32, tensor.shape});
      origin[specs.back().name] = {tensor.name, role};
    }
  }
  std::map<std::string, std::string> metadata;
  if (const TrainState* state = source.train_state()) {
    metadata["step"] = std::to_string(state->step);
  }
  SafetensorsWriter writer(path, specs, metadata);
  for (size_t i = 0; i < writer.specs().size(); ++i) {
    const auto& [name, role] = origin.at(writer.specs()[i].name);
    ForEachBlock(source, source.Get(name), role, DType::kFloat32,
                 [&](const ValueBlock& block) { writer.Write(i, block.begin * 4, block.bytes); });
  }
  writer.Commit();
}

}  // namespace sepia::checkpoint
