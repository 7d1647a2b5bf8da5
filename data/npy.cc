#include "data/npy.h"

#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace sepia::data {
namespace {

constexpr std::string_view kMagic("\x93NUMPY\x01\x00", 8);
constexpr int64_t kPrefixBytes = 10;  // magic, version, u16 length of the header text
constexpr size_t kMaxRank = 8;

// Reads the one form of Python literal that numpy writes:
// {'descr': '<i4', 'fortran_order': False, 'shape': (8, 2), }
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : text_(text) {}

  bool Take(std::string_view literal) {
    SkipSpaces();
    if (text_.substr(0, literal.size()) != literal) return false;
    text_.remove_prefix(literal.size());
    return true;
  }

  std::optional<std::string> Quoted() {
    if (!Take("'")) return std::nullopt;
    const size_t end = text_.find('\'');
    if (end == std::string_view::npos) return std::nullopt;
    std::string value(text_.substr(0, end));
    text_.remove_prefix(end + 1);
    return value;
  }

  std::optional<int64_t> Number() {
    SkipSpaces();
    int64_t value = 0;
    size_t digits = 0;
    for (; digits < text_.size() && text_[digits] >= '0' && text_[digits] <= '9'; ++digits) {
      if (digits == 18) return std::nullopt;
      value = value * 10 + (text_[digits] - '0');
    }
    if (digits == 0) return std::nullopt;
    text_.remove_prefix(digits);
    return value;
  }

  bool AtEnd() {
    SkipSpaces();
    return text_.empty();
  }

 private:
  void SkipSpaces() {
    while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\n')) {
      text_.remove_prefix(1);
    }
  }

  std::string_view text_;
};

std::optional<std::vector<int64_t>> ReadShape(HeaderReader& in) {
  std::vector<int64_t> shape;
  if (!in.Take("(")) return std::nullopt;
  while (!in.Take(")")) {
    const std::optional<int64_t> extent = in.Number();
    if (!extent || shape.size() == kMaxRank) return std::nullopt;
    shape.push_back(*extent);
    if (in.Take(",")) continue;
    if (!in.Take(")")) return std::nullopt;
    break;
  }
  return shape;
}

// Bytes of one element; only little-endian integers.
std::optional<int64_t> ItemBytes(const std::string& descr) {
  for (const char* one_byte : {"|u1", "|i1"}) {
    if (descr == one_byte) return 1;
  }
  if (descr.size() != 3 || descr[0] != '<' || (descr[1] != 'i' && descr[1] != 'u')) {
    return std::nullopt;
  }
  const char digit = descr[2];
  if (digit != '2' && digit != '4' && digit != '8') return std::nullopt;
  return digit - '0';
}

}  // namespace

NpyFile::NpyFile(const std::string& path) : file_(path) {
  const std::span<const std::byte> bytes = file_.bytes();
  if (file_.size() < kPrefixBytes || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    throw BadData(path, 0, "not a .npy file of version 1");
  }
  uint16_t length;
  std::memcpy(&length, bytes.data() + kMagic.size(), sizeof(length));
  data_offset_ = kPrefixBytes + length;
  if (data_offset_ > file_.size()) {
    throw BadData(path, file_.size(), "the file ends inside the header", "it is truncated");
  }
  ParseHeader({reinterpret_cast<const char*>(bytes.data()) + kPrefixBytes, length});
}

void NpyFile::ParseHeader(std::string_view header) {
  HeaderReader in(header);
  std::optional<std::string> descr;
  std::optional<std::vector<int64_t>> shape;
  const bool parsed = in.Take("{") && in.Take("'descr':") && (descr = in.Quoted()) &&
                      in.Take(",") && in.Take("'fortran_order':") && in.Take("False") &&
                      in.Take(",") && in.Take("'shape':") && (shape = ReadShape(in)) &&
                      (in.Take(","), in.Take("}")) && in.AtEnd();
  if (!parsed) {
    throw BadData(path(), kPrefixBytes, "the header is not that of a C-ordered array");
  }
  const std::optional<int64_t> item = ItemBytes(*descr);
  if (!item) {
    throw BadData(path(), kPrefixBytes, fmt::format("elements of type '{}'", *descr),
                  "expected little-endian integers");
  }
  const int64_t available = (file_.size() - data_offset_) / *item;
  for (const int64_t extent : *shape) {
    if (extent != 0 && num_elements_ > available / extent) {
      throw BadData(path(), file_.size(), "the file is shorter than the shape in its header says",
                    "it is truncated");
    }
    num_elements_ *= extent;
  }
  if (data_offset_ + num_elements_ * *item != file_.size()) {
    throw BadData(path(), data_offset_ + num_elements_ * *item,
                  "the length does not match the shape in the header", "it is damaged");
  }
  descr_ = *std::move(descr);
  shape_ = *std::move(shape);
  item_bytes_ = *item;
}

std::string NpyHeader(const std::string& descr, std::span<const int64_t> shape) {
  // numpy writes (8,) for one dimension and (8, 2) for two.
  const std::string text =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", descr,
                  fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  // Padded with spaces to a multiple of 64. numpy >= 1.23 first leaves room for 21 digits of the
  // first extent; for the arrays here both give 128 bytes.
  constexpr size_t kTextBytes = 128 - kPrefixBytes;
  CHECK_LT(text.size(), kTextBytes);
  std::string header(kMagic);
  header += static_cast<char>(kTextBytes & 0xff);
  header += static_cast<char>(kTextBytes >> 8);
  header += text;
  header.append(kTextBytes - 1 - text.size(), ' ');
  header += '\n';
  return header;
}

}  // namespace sepia::data
