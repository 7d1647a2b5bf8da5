#include "checkpoint/import/weight_index.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/file_name.h"
#include "checkpoint/json.h"

namespace sepia::checkpoint {
namespace {

using WeightMap = std::map<std::string, std::vector<std::string>>;  // file -> its tensors, sorted

// Shards lie beside their index; a name may not lead elsewhere.
void CheckShardName(const std::string& index, const std::string& name) {
  if (!IsPlainFileName(name)) {
    throw BadData(index, -1, fmt::format("weight_map names the shard '{}'", name.c_str()),
                  "shards must be plain file names in the same folder");
  }
}

WeightMap ReadWeightMap(const std::string& index, const JsonObject& object) {
  const JsonValue* value = FindKey(object, "weight_map");
  const JsonObject* map = value == nullptr ? nullptr : value->As<JsonObject>();
  if (map == nullptr) throw BadData(index, -1, "weight_map is missing or no object");
  WeightMap files;
  for (const auto& [tensor, file] : *map) {
    const std::string* name = file.As<std::string>();
    if (name == nullptr) {
      throw BadData(index, -1,
                    fmt::format("weight_map gives {} for tensor '{}' instead of a file "
                                "name",
                                file.TypeName(), tensor));
    }
    CheckShardName(index, *name);
    files[*name].push_back(tensor);
  }
  if (files.empty()) throw BadData(index, -1, "weight_map is empty");
  for (auto& [name, tensors] : files) std::sort(tensors.begin(), tensors.end());
  return files;
}

void CheckShard(const std::string& index, const WeightFile& file,
                const std::vector<std::string>& listed) {
  std::vector<std::string> present;
  for (const SourceTensor& tensor : file.tensors()) present.push_back(tensor.name);
  std::sort(present.begin(), present.end());
  const auto differing =
      std::mismatch(listed.begin(), listed.end(), present.begin(), present.end());
  if (differing.first == listed.end() && differing.second == present.end()) return;
  const bool is_missing = differing.second == present.end() ||
                          (differing.first != listed.end() && *differing.first < *differing.second);
  const std::string& name = is_missing ? *differing.first : *differing.second;
  throw BadData(file.path(), -1,
                is_missing
                    ? fmt::format("has no tensor '{}', which {} places here", name, index)
                    : fmt::format("holds tensor '{}', which {} does not place here", name, index),
                "index and shards are of different uploads; fetch both again");
}

void CheckTotalSize(const std::string& index, const JsonObject& object, int64_t total) {
  const JsonValue* metadata = FindKey(object, "metadata");
  const JsonObject* fields = metadata == nullptr ? nullptr : metadata->As<JsonObject>();
  const JsonValue* value = fields == nullptr ? nullptr : FindKey(*fields, "total_size");
  if (value == nullptr) return;  // optional in transformers
  // Old versions of transformers wrote a float.
  const int64_t* integer = value->As<int64_t>();
  const double* number = value->As<double>();
  const bool matches = (integer != nullptr && *integer == total) ||
                       (number != nullptr && *number == static_cast<double>(total));
  if (!matches) {
    throw BadData(index, -1,
                  fmt::format("metadata.total_size does not match the {} bytes of the "
                              "shards' tensors",
                              total),
                  "index and shards are of different uploads; fetch both again");
  }
}

std::vector<std::unique_ptr<WeightFile>> OpenShards(const std::string& folder,
                                                    const std::string& index) {
  const JsonObject object = ReadJsonObject(index);
  const WeightMap map = ReadWeightMap(index, object);
  std::vector<std::unique_ptr<WeightFile>> files;
  int64_t total = 0;
  for (const auto& [name, listed] : map) {
    const std::string path = folder + "/" + name;
    if (!std::filesystem::is_regular_file(path)) {
      throw BadData(index, -1, fmt::format("the shard {} is missing", name), "fetch it again");
    }
    files.push_back(OpenWeightFile(path));
    CheckShard(index, *files.back(), listed);
    for (const SourceTensor& tensor : files.back()->tensors()) {
      total += tensor.shape.num_elements() * DTypeSize(tensor.dtype);
    }
  }
  CheckTotalSize(index, object, total);
  return files;
}

}  // namespace

std::vector<std::unique_ptr<WeightFile>> OpenWeightFiles(const std::string& folder) {
  const std::string single = folder + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (FileExists(index)) return OpenShards(folder, index);
  std::vector<std::unique_ptr<WeightFile>> files;
  if (FileExists(single)) {
    files.push_back(OpenWeightFile(single));
    return files;
  }
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (FileExists(folder + "/" + name)) {
      throw BadData(folder + "/" + name, -1, "PyTorch pickle files cannot be read by this version",
                    "convert the folder to safetensors first (transformers: save_pretrained)");
    }
  }
  throw BadData(folder, -1, "has neither model.safetensors nor model.safetensors.index.json");
}

}  // namespace sepia::checkpoint
