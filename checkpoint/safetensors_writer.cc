#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace sepia::checkpoint {
namespace {

// The length, then JSON padded with spaces so that the data start at a multiple of 8.
std::string MakeHeader(std::span<const SafetensorsSpec> specs, std::span<const int64_t> ends,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json json;
  json["__metadata__"] = metadata;
  int64_t begin = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto dims = specs[i].shape.dims();
    json[specs[i].name] = {{"dtype", SafetensorsDTypeName(specs[i].dtype)},
                           {"shape", std::vector<int64_t>(dims.begin(), dims.end())},
                           {"data_offsets", {begin, ends[i]}}};
    begin = ends[i];
  }
  std::string text = json.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path,
                                     std::span<const SafetensorsSpec> specs,
                                     std::map<std::string, std::string> metadata)
    : file_(path), specs_(specs.begin(), specs.end()) {
  std::sort(specs_.begin(), specs_.end(), [](const auto& a, const auto& b) {
    const int64_t size_a = DTypeSize(a.dtype);
    const int64_t size_b = DTypeSize(b.dtype);
    return size_a != size_b ? size_a > size_b : a.name < b.name;
  });
  std::vector<int64_t> ends;
  int64_t end = 0;
  for (const SafetensorsSpec& spec : specs_) {
    CHECK(spec.name != "__metadata__", "a reserved name");
    end += spec.shape.num_elements() * DTypeSize(spec.dtype);
    ends.push_back(end);
  }
  metadata.emplace("format", "pt");
  const std::string header = MakeHeader(specs_, ends, metadata);
  const auto data_begin = static_cast<int64_t>(header.size());
  file_.file().Preallocate(data_begin + end);
  file_.file().WriteAt(0, std::as_bytes(std::span(header)));
  offsets_.push_back(data_begin);
  for (const int64_t tensor_end : ends) offsets_.push_back(data_begin + tensor_end);
}

void SafetensorsWriter::Write(size_t index, int64_t begin, std::span<const std::byte> bytes) {
  CHECK(index < specs_.size());
  const int64_t offset = offsets_[index] + begin;
  CHECK(begin >= 0 && offset + static_cast<int64_t>(bytes.size()) <= offsets_[index + 1],
        "{} bytes at {} of tensor '{}'", bytes.size(), begin, specs_[index].name);
  file_.file().WriteAt(offset, bytes);
}

void SafetensorsWriter::Commit() { file_.Commit(); }

void WriteSafetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsSpec> specs;
  std::map<std::string_view, ConstTensorView> views;
  for (const SafetensorsTensor& tensor : tensors) {
    specs.push_back({tensor.name, tensor.view.dtype(), tensor.view.shape()});
    CHECK(views.emplace(tensor.name, tensor.view).second, "two tensors named {}", tensor.name);
  }
  SafetensorsWriter writer(path, specs, metadata);
  for (size_t i = 0; i < writer.specs().size(); ++i) {
    const ConstTensorView& view = views.at(writer.specs()[i].name);
    writer.Write(
        i, 0, {static_cast<const std::byte*>(view.raw()), static_cast<size_t>(view.num_bytes())});
  }
  writer.Commit();
}

}  // namespace sepia::checkpoint
