#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kHeaderBegin = 8;  // after the length
constexpr uint64_t kMaxNumber = uint64_t{1} << 48;

constexpr std::array<std::pair<std::string_view, DType>, 11> kDTypes = {{
    {"F32", DType::kFloat32},
    {"BF16", DType::kBFloat16},
    {"F16", DType::kFloat16},
    {"F64", DType::kFloat64},
    {"I64", DType::kInt64},
    {"I32", DType::kInt32},
    {"I16", DType::kInt16},
    {"I8", DType::kInt8},
    {"U8", DType::kUInt8},
    {"U16", DType::kUInt16},
    {"BOOL", DType::kBool},
}};

// Receives the events of nlohmann's parser, which is iterative: depth costs no stack. The grammar
// has three levels, so the position is the depth and the last key of each level.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(SafetensorsHeader* header, const std::string& path)
      : header_(header), path_(path) {}

  bool start_object(size_t) override {
    if (depth_ == 0) return ++depth_, true;
    if (depth_ != 1) Fail("an object where none belongs: the header is nested too deep");
    ++depth_;
    if (in_metadata_) return true;
    header_->tensors.emplace_back();
    header_->tensors.back().name = top_key_;
    fields_seen_ = 0;
    dims_.clear();
    range_.clear();
    return true;
  }

  bool key(std::string& name) override {
    if (depth_ == 1) {
      in_metadata_ = name == "__metadata__";
      if (in_metadata_ && std::exchange(metadata_seen_, true)) Fail("two __metadata__ entries");
      top_key_ = std::move(name);
    } else if (in_metadata_) {
      metadata_key_ = std::move(name);
    } else {
      SetField(name);
    }
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_) {
      if (!header_->metadata.emplace(metadata_key_, std::move(value)).second) {
        Fail(fmt::format("__metadata__ has two entries '{}'", metadata_key_));
      }
      return true;
    }
    if (depth_ != 2 || field_ != kDtype) return Unexpected("a string");
    const auto* found = std::find_if(kDTypes.begin(), kDTypes.end(),
                                     [&](const auto& known) { return known.first == value; });
    if (found == kDTypes.end())
      Fail(fmt::format("tensor '{}': unknown dtype '{}'", top_key_, value));
    header_->tensors.back().dtype = found->second;
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || in_metadata_ || field_ == kDtype) return Unexpected("an array");
    ++depth_;
    return true;
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (depth_ != 3) return Unexpected("a number");
    if (value > kMaxNumber) {
      Fail(fmt::format("tensor '{}': {} in {} is out of range", top_key_, value, FieldName()));
    }
    auto& list = field_ == kShape ? dims_ : range_;
    const size_t most = field_ == kShape ? Shape::kMaxRank : 2;
    if (list.size() == most) {
      Fail(field_ == kShape
               ? fmt::format("tensor '{}' has more than the {} dimensions that Sepia "
                             "can hold",
                             top_key_, Shape::kMaxRank)
               : fmt::format("tensor '{}': data_offsets must have two entries", top_key_));
    }
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && !std::exchange(in_metadata_, false)) FinishTensor();
    return true;
  }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_integer(int64_t value) override {
    return Unexpected(fmt::format("the negative number {}", value));
  }
  bool number_float(double, const std::string& text) override {
    return Unexpected(fmt::format("{}, which is not an integer in range", text.substr(0, 32)));
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    throw BadData(path_, kHeaderBegin + static_cast<int64_t>(position),
                  "the header is not valid JSON in UTF-8", kRemedy);
  }

 private:
  enum Field { kDtype, kShape, kDataOffsets };
  static constexpr const char* kRemedy = "the file is damaged; fetch it again";

  [[noreturn]] void Fail(const std::string& reason) const {
    throw BadData(path_, kHeaderBegin, reason, kRemedy);
  }

  bool Unexpected(const std::string& what) const {
    if (depth_ == 0) Fail("the header is not a JSON object");
    if (in_metadata_) Fail("__metadata__ must be an object of strings, but holds " + what);
    if (depth_ == 1) Fail(fmt::format("'{}' is {} instead of an object", top_key_, what));
    Fail(fmt::format("tensor '{}': {} in {}", top_key_, what, FieldName()));
  }

  std::string_view FieldName() const {
    return field_ == kDtype ? "dtype" : field_ == kShape ? "shape" : "data_offsets";
  }

  void SetField(const std::string& name) {
    if (name == "dtype")
      field_ = kDtype;
    else if (name == "shape")
      field_ = kShape;
    else if (name == "data_offsets")
      field_ = kDataOffsets;
    else
      Fail(fmt::format("tensor '{}': unknown field '{}'", top_key_, name));
    const int bit = 1 << field_;
    if ((fields_seen_ & bit) != 0)
      Fail(fmt::format("tensor '{}': two fields '{}'", top_key_, name));
    fields_seen_ |= bit;
  }

  void FinishTensor() {
    SafetensorsHeader::Tensor& tensor = header_->tensors.back();
    for (const Field field : {kDtype, kShape, kDataOffsets}) {
      field_ = field;
      if ((fields_seen_ & (1 << field)) == 0) {
        Fail(fmt::format("tensor '{}': the field {} is missing", tensor.name, FieldName()));
      }
    }
    if (range_.size() != 2) {
      Fail(fmt::format("tensor '{}': data_offsets must have two entries", tensor.name));
    }
    tensor.begin = range_[0];
    tensor.end = range_[1];
    if (tensor.end < tensor.begin) {
      Fail(fmt::format("tensor '{}': its data end before they begin", tensor.name));
    }
    tensor.shape = CheckedShape();
    const int64_t bytes = tensor.shape.num_elements() * DTypeSize(tensor.dtype);
    if (bytes != tensor.end - tensor.begin) {
      Fail(fmt::format("tensor '{}': {} {} needs {} bytes, its data_offsets span {}", tensor.name,
                       SafetensorsDTypeName(tensor.dtype), tensor.shape, bytes,
                       tensor.end - tensor.begin));
    }
  }

  Shape CheckedShape() const {
    int64_t product = 1;  // of the dimensions that are not 0: an order-independent bound
    for (const int64_t dim : dims_) {
      if (__builtin_mul_overflow(product, std::max<int64_t>(dim, 1), &product) ||
          product > static_cast<int64_t>(kMaxNumber)) {
        Fail(fmt::format("tensor '{}': the product of its dimensions overflows", top_key_));
      }
    }
    return Shape(std::span<const int64_t>(dims_));
  }

  SafetensorsHeader* header_;
  const std::string& path_;
  int depth_ = 0;
  bool in_metadata_ = false;
  bool metadata_seen_ = false;
  std::string top_key_;
  std::string metadata_key_;
  Field field_ = kDtype;
  int fields_seen_ = 0;
  std::vector<int64_t> dims_;
  std::vector<int64_t> range_;
};

}  // namespace

std::string_view SafetensorsDTypeName(DType dtype) {
  for (const auto& [name, known] : kDTypes) {
    if (known == dtype) return name;
  }
  CHECK(false, "dtype {} has no safetensors name", DTypeName(dtype));
}

SafetensorsHeader ParseSafetensorsHeader(std::string_view json, const std::string& path) {
  SafetensorsHeader header;
  // The shortest entry has 50 characters and one '{': no growth by doubling, whatever the text.
  header.tensors.reserve(std::min(static_cast<size_t>(std::count(json.begin(), json.end(), '{')),
                                  json.size() / 50 + 1));
  HeaderHandler handler(&header, path);
  nlohmann::json::sax_parse(json.begin(), json.end(), &handler);
  auto& tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twin =
      std::adjacent_find(tensors.begin(), tensors.end(),
                         [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twin != tensors.end()) {
    throw BadData(path, kHeaderBegin, fmt::format("two tensors are named '{}'", twin->name),
                  "the file is damaged; fetch it again");
  }
  return header;
}

}  // namespace sepia::checkpoint
