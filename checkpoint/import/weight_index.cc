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

// `flags` of the `total` bytes are booleans, which transformers before 4.3x counted as bits.
void CheckTotalSize(const std::string& index, const JsonObject& object, int64_t total,
                    int64_t flags) {
  const JsonValue* metadata = FindKey(object, "metadata");
  const JsonObject* fields = metadata == nullptr ? nullptr : metadata->As<JsonObject>();
  const JsonValue* value = fields == nullptr ? nullptr : FindKey(*fields, "total_size");
  if (value == nullptr) return;  // optional in transformers
  const int64_t* integer = value->As<int64_t>();
  const double* number = value->As<double>();  // old versions of transformers wrote a float
  const double stated = integer != nullptr  ? static_cast<double>(*integer)
                        : number != nullptr ? *number
                                            : -1;
  const double with_bits = static_cast<double>(total) - 0.875 * static_cast<double>(flags);
  const bool matches = stated == static_cast<double>(total) || stated == with_bits;
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
  int64_t flags = 0;
  for (const auto& [name, listed] : map) {
    const std::string path = folder + "/" + name;
    if (!std::filesystem::is_regular_file(path)) {
      throw BadData(index, -1, fmt::format("the shard {} is missing", name), "fetch it again");
    }
    files.push_back(OpenWeightFile(path));
    CheckShard(index, *files.back(), listed);
    for (const SourceTensor& tensor : files.back()->tensors()) {
      const int64_t bytes = tensor.shape.num_elements() * DTypeSize(tensor.dtype);
      total += bytes;
      if (tensor.dtype == DType::kBool) flags += bytes;
    }
  }
  CheckTotalSize(index, object, total, flags);
  return files;
}

}  // namespace

std::vector<std::unique_ptr<WeightFile>> OpenWeightFiles(const std::string& folder) {
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const std::string single = folder + "/" + name;
    const std::string index = single + ".index.json";
    if (FileExists(index)) return OpenShards(folder, index);
    if (!FileExists(single)) continue;
    std::vector<std::unique_ptr<WeightFile>> files;
    files.push_back(OpenWeightFile(single));
    return files;
  }
  throw BadData(folder, -1,
                "has neither model.safetensors nor pytorch_model.bin, nor an index of either");
}

}  // namespace sepia::checkpoint
