#include "checkpoint/gguf/gguf_file.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/check.h"
#include "base/error.h"
#include "base/integer.h"

namespace sepia::checkpoint {
namespace {

constexpr uint64_t kMaxRecords = 1 << 14;  // of either table
constexpr uint32_t kMaxDims = 4;
constexpr int64_t kMaxElements = int64_t{1} << 48;

std::optional<DType> DTypeOfGguf(uint32_t type) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    if (GgufTensorType(dtype) == type) return dtype;
  }
  return std::nullopt;
}

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  int64_t at() const { return static_cast<int64_t>(at_); }
  [[noreturn]] void Fail(const std::string& reason) const {
    throw BadData(path_, at(), "GGUF: " + reason, "the file is damaged or of an unknown version");
  }
  std::span<const std::byte> Take(uint64_t count) {
    if (count > bytes_.size() - at_) Fail("the file ends inside a record");
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  template <typename T>
  T Number() {
    T value;
    std::memcpy(&value, Take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view String() {
    const auto bytes = Take(Number<uint64_t>());
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // A count of records that take at least `least` bytes each.
  uint64_t Count(uint64_t least) {
    const auto count = Number<uint64_t>();
    if (count > kMaxRecords || count > (bytes_.size() - at_) / least) {
      Fail(fmt::format("{} records do not fit", count));
    }
    return count;
  }

  GgufValue Value(GgufType type) {
    switch (type) {
      case GgufType::kUint8: return int64_t{Number<uint8_t>()};
      case GgufType::kInt8: return int64_t{Number<int8_t>()};
      case GgufType::kUint16: return int64_t{Number<uint16_t>()};
      case GgufType::kInt16: return int64_t{Number<int16_t>()};
      case GgufType::kUint32: return int64_t{Number<uint32_t>()};
      case GgufType::kInt32: return int64_t{Number<int32_t>()};
      case GgufType::kInt64: return Number<int64_t>();
      case GgufType::kUint64: return Unsigned64();
      case GgufType::kFloat32: return double{Number<float>()};
      case GgufType::kFloat64: return Number<double>();
      case GgufType::kBool: return Boolean();
      case GgufType::kString: return String();
      case GgufType::kArray: return Array();
    }
    Fail(fmt::format("value type {}", static_cast<uint32_t>(type)));
  }

 private:
  int64_t Unsigned64() {
    const auto value = Number<uint64_t>();
    if (value > static_cast<uint64_t>(INT64_MAX)) Fail("an integer past 2^63");
    return static_cast<int64_t>(value);
  }
  bool Boolean() {
    const auto value = Number<uint8_t>();
    if (value > 1) Fail("a boolean that is neither 0 nor 1");
    return value == 1;
  }
  GgufArray Array() {
    const GgufArray array{static_cast<GgufType>(Number<uint32_t>()), Number<uint64_t>()};
    if (array.type == GgufType::kArray) Fail("an array of arrays");
    for (uint64_t i = 0; i < array.count; ++i) Value(array.type);
    return array;
  }

  std::span<const std::byte> bytes_;
  const std::string& path_;
  size_t at_ = 0;
};

struct Placed {
  GgufTensor tensor;
  uint64_t offset = 0;  // in the data section
};

Placed ReadTensorInfo(Cursor& cursor) {
  Placed placed;
  placed.tensor.name = cursor.String();
  const auto rank = cursor.Number<uint32_t>();
  if (rank == 0 || rank > kMaxDims) cursor.Fail(fmt::format("a tensor of {} dimensions", rank));
  std::vector<int64_t> dims(rank);
  int64_t elements = 1;
  for (uint32_t d = rank; d-- > 0;) {
    const auto dim = cursor.Number<uint64_t>();
    if (dim == 0 || dim > static_cast<uint64_t>(kMaxElements / elements)) {
      cursor.Fail("the shape of a tensor is empty or overflows");
    }
    dims[d] = static_cast<int64_t>(dim);
    elements *= dims[d];
  }
  placed.tensor.shape = Shape(std::span<const int64_t>(dims));
  const auto type = cursor.Number<uint32_t>();
  const std::optional<DType> dtype = DTypeOfGguf(type);
  if (!dtype) {
    cursor.Fail(
        fmt::format("tensor '{}' has type {}; only F32, F16 and BF16 are read, not "
                    "quantised ones",
                    placed.tensor.name, type));
  }
  placed.tensor.dtype = *dtype;
  placed.offset = cursor.Number<uint64_t>();
  return placed;
}

int64_t Alignment(const GgufFile& file, const Cursor& cursor) {
  const GgufValue* value = file.Find("general.alignment");
  if (value == nullptr) return kGgufAlignment;
  const auto* alignment = std::get_if<int64_t>(value);
  const bool is_power = alignment != nullptr && *alignment > 0 && *alignment <= 1 << 20 &&
                        (*alignment & (*alignment - 1)) == 0;
  if (!is_power) cursor.Fail("general.alignment is no power of two up to 2^20");
  return *alignment;
}

// Sets the bytes of every tensor; they are aligned, inside the file and disjoint.
void FindData(std::span<const std::byte> file, int64_t begin, int64_t alignment,
              const Cursor& cursor, std::vector<Placed>* tensors) {
  std::sort(tensors->begin(), tensors->end(),
            [](const auto& a, const auto& b) { return a.offset < b.offset; });
  uint64_t end = 0;
  const auto room =
      static_cast<uint64_t>(std::max<int64_t>(0, static_cast<int64_t>(file.size()) - begin));
  for (auto& [tensor, offset] : *tensors) {
    const auto bytes = static_cast<uint64_t>(tensor.shape.num_elements() * DTypeSize(tensor.dtype));
    if (offset % static_cast<uint64_t>(alignment) != 0 || offset < end || offset > room ||
        bytes > room - offset) {
      cursor.Fail(fmt::format("tensor '{}' leaves the file or overlaps another", tensor.name));
    }
    tensor.bytes = file.subspan(static_cast<size_t>(begin) + offset, bytes);
    end = offset + bytes;
  }
}

template <typename Records, typename Name>
void SortUniquely(Records* records, const Name& name, const Cursor& cursor) {
  std::sort(records->begin(), records->end(),
            [&](const auto& a, const auto& b) { return name(a) < name(b); });
  const auto twice =
      std::adjacent_find(records->begin(), records->end(),
                         [&](const auto& a, const auto& b) { return name(a) == name(b); });
  if (twice != records->end()) cursor.Fail(fmt::format("'{}' appears twice", name(*twice)));
}

}  // namespace

uint32_t GgufTensorType(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return 0;
    case DType::kFloat16: return 1;
    case DType::kBFloat16: return 30;
    default: break;
  }
  CHECK(false, "no model is stored as {}", DTypeName(dtype));
}

GgufFile::GgufFile(const std::string& path) : file_(path) {
  Cursor cursor(file_.bytes(), path);
  if (cursor.Number<uint32_t>() != 0x46554747) cursor.Fail("not a GGUF file");
  const auto version = cursor.Number<uint32_t>();
  if (version != kGgufVersion) cursor.Fail(fmt::format("version {}, not 3", version));
  const uint64_t num_tensors = cursor.Count(24);
  const uint64_t num_values = cursor.Count(13);
  values_.reserve(num_values);
  for (uint64_t i = 0; i < num_values; ++i) {
    const std::string_view key = cursor.String();
    values_.emplace_back(key, cursor.Value(static_cast<GgufType>(cursor.Number<uint32_t>())));
  }
  SortUniquely(
      &values_, [](const auto& value) { return value.first; }, cursor);
  const int64_t alignment = Alignment(*this, cursor);
  std::vector<Placed> placed;
  placed.reserve(num_tensors);
  for (uint64_t i = 0; i < num_tensors; ++i) placed.push_back(ReadTensorInfo(cursor));
  const int64_t begin = RoundUp(cursor.at(), alignment);
  FindData(file_.bytes(), begin, alignment, cursor, &placed);
  for (const Placed& tensor : placed) tensors_.push_back(tensor.tensor);
  SortUniquely(
      &tensors_, [](const auto& tensor) { return tensor.name; }, cursor);
}

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto found = std::lower_bound(
      values_.begin(), values_.end(), key,
      [](const auto& value, std::string_view wanted) { return value.first < wanted; });
  return found != values_.end() && found->first == key ? &found->second : nullptr;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const GgufTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

bool LooksLikeGguf(const std::string& path) {
  const File file = File::OpenForRead(path);
  char start[4] = {};
  if (file.Size() < 4) return false;
  file.ReadAt(0, std::as_writable_bytes(std::span(start)));
  return std::memcmp(start, "GGUF", 4) == 0;
}

}  // namespace sepia::checkpoint
