#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "checkpoint/elements.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_header.h"

namespace sepia::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // upstream's limit
constexpr const char* kDamaged = "the file is damaged; fetch it again";
constexpr const char* kTruncated = "the file is truncated; fetch it again";

// The JSON text without its padding.
std::string_view HeaderText(const MappedFile& file) {
  const std::string& path = file.path();
  if (file.size() < kLengthBytes) {
    throw BadData(path, 0, fmt::format("{} bytes are no safetensors file", file.size()),
                  kTruncated);
  }
  uint64_t length;
  std::memcpy(&length, file.bytes().data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    throw BadData(
        path, 0,
        fmt::format("the header length {} is above the limit of {}", length, kMaxHeaderBytes),
        "this is no safetensors file, or it is damaged");
  }
  if (length > static_cast<uint64_t>(file.size() - kLengthBytes)) {
    throw BadData(path, 0,
                  fmt::format("the header of {} bytes reaches past the end of the file "
                              "({} bytes)",
                              length, file.size()),
                  kTruncated);
  }
  std::string_view text(reinterpret_cast<const char*>(file.bytes().data()) + kLengthBytes, length);
  if (text.empty()) throw BadData(path, 0, "the header is empty", kDamaged);
  if (text.front() != '{') {
    throw BadData(path, kLengthBytes, "the header does not start with '{'", kDamaged);
  }
  // nlohmann's lexer takes NUL for the end of the input.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw BadData(path, kLengthBytes + static_cast<int64_t>(nul),
                  "a NUL byte in the header; "
                  "padding must be spaces",
                  kDamaged);
  }
  return text.substr(0, text.find_last_not_of(' ') + 1);
}

// Ranges must tile the data: no gap, no overlap, nothing left over.
void CheckRanges(const SafetensorsHeader& header, const std::string& path, int64_t data_begin,
                 int64_t data_bytes) {
  std::vector<const SafetensorsHeader::Tensor*> by_offset;
  by_offset.reserve(header.tensors.size());
  for (const auto& tensor : header.tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t expected = 0;
  for (const auto* tensor : by_offset) {
    if (tensor->begin != expected) {
      throw BadData(
          path, data_begin + tensor->begin,
          fmt::format("tensor '{}' begins at data byte {}, {} (the data before it end "
                      "at {})",
                      tensor->name, tensor->begin,
                      tensor->begin < expected ? "inside another tensor" : "after a gap", expected),
          kDamaged);
    }
    if (tensor->end > data_bytes) {
      throw BadData(path, data_begin + data_bytes,
                    fmt::format("the file ends {} bytes before the end of tensor '{}'",
                                tensor->end - data_bytes, tensor->name),
                    kTruncated);
    }
    expected = tensor->end;
  }
  if (expected != data_bytes) {
    throw BadData(path, data_begin + expected,
                  fmt::format("{} bytes follow the last tensor", data_bytes - expected), kDamaged);
  }
}

template <typename T>
void WidenIntegers(std::span<const std::byte> bytes, std::span<int64_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int64_t>(value);
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const std::string_view text = HeaderText(file_);
  uint64_t length;
  std::memcpy(&length, file_.bytes().data(), sizeof(length));
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(length);
  SafetensorsHeader header = ParseSafetensorsHeader(text, path);
  CheckRanges(header, path, data_begin, file_.size() - data_begin);
  const auto data = file_.bytes().subspan(static_cast<size_t>(data_begin));
  entries_.reserve(header.tensors.size());
  for (auto& tensor : header.tensors) {
    entries_.push_back({std::move(tensor.name), tensor.dtype, tensor.shape,
                        data.subspan(static_cast<size_t>(tensor.begin),
                                     static_cast<size_t>(tensor.end - tensor.begin))});
  }
  metadata_ = std::move(header.metadata);
}

const SafetensorsEntry* SafetensorsFile::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      entries_.begin(), entries_.end(), name,
      [](const SafetensorsEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

const SafetensorsEntry& SafetensorsFile::Get(std::string_view name) const {
  const SafetensorsEntry* entry = Find(name);
  if (entry == nullptr) {
    throw BadData(path(), -1, fmt::format("no tensor is named '{}'", name),
                  fmt::format("the file holds {} others", entries_.size()));
  }
  return *entry;
}

void SafetensorsFile::CopyTo(const SafetensorsEntry& entry, TensorView out) const {
  CHECK(out.dtype() == entry.dtype && out.shape() == entry.shape, "tensor '{}'", entry.name);
  if (!entry.bytes.empty()) std::memcpy(out.raw(), entry.bytes.data(), entry.bytes.size());
}

void SafetensorsFile::ReadFloats(const SafetensorsEntry& entry, std::span<float> out) const {
  if (!IsFloating(entry.dtype)) {
    throw BadData(path(), -1,
                  fmt::format("tensor '{}' holds {}, not floating-point numbers", entry.name,
                              SafetensorsDTypeName(entry.dtype)));
  }
  WidenToFloats(entry.dtype, entry.bytes, out);
}

std::vector<int64_t> SafetensorsFile::ReadIntegers(const SafetensorsEntry& entry) const {
  std::vector<int64_t> out(static_cast<size_t>(entry.shape.num_elements()));
  switch (entry.dtype) {
    case DType::kInt64: WidenIntegers<int64_t>(entry.bytes, out); break;
    case DType::kInt32: WidenIntegers<int32_t>(entry.bytes, out); break;
    case DType::kInt16: WidenIntegers<int16_t>(entry.bytes, out); break;
    case DType::kInt8: WidenIntegers<int8_t>(entry.bytes, out); break;
    case DType::kUInt16: WidenIntegers<uint16_t>(entry.bytes, out); break;
    case DType::kUInt8:
    case DType::kBool: WidenIntegers<uint8_t>(entry.bytes, out); break;
    default:
      throw BadData(path(), -1,
                    fmt::format("tensor '{}' holds {}, not integers", entry.name,
                                SafetensorsDTypeName(entry.dtype)));
  }
  return out;
}

}  // namespace sepia::checkpoint
