// numpy's .npy files, version 1, C order: how index maps are kept.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file.h"

namespace sepia::data {

// A mapped array. The header is checked against the file's length at construction.
class NpyFile {
 public:
  // Throws kBadData for anything but a little-endian integer array of at most 8 dimensions.
  explicit NpyFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  // numpy's type string, e.g. "<i4", "|u1".
  const std::string& descr() const { return descr_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t num_elements() const { return num_elements_; }
  // Offset of element i in the file, for messages.
  int64_t ByteOffset(int64_t i) const { return data_offset_ + i * item_bytes_; }
  std::span<const std::byte> data_bytes() const {
    return file_.bytes().subspan(static_cast<size_t>(data_offset_));
  }

  // T must have the size of the elements. Nothing is aligned.
  template <typename T>
  T At(int64_t i) const {
    DCHECK(i >= 0 && i < num_elements_);
    T value;
    std::memcpy(&value, file_.bytes().data() + data_offset_ + i * int64_t{sizeof(T)}, sizeof(T));
    return value;
  }

 private:
  void ParseHeader(std::string_view header);

  MappedFile file_;
  std::string descr_;
  std::vector<int64_t> shape_;
  int64_t item_bytes_ = 0;
  int64_t num_elements_ = 1;
  int64_t data_offset_ = 0;
};

// The header that numpy.save writes for an array of this type and shape: 128 bytes.
std::string NpyHeader(const std::string& descr, std::span<const int64_t> shape);

}  // namespace sepia::data
