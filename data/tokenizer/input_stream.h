// Files read from front to back, decompressed on the way: .gz and .zst by their names, anything
// else as it is. Memory does not depend on the size of the file or of what it decompresses to.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace sepia::data {

class InputStream {
 public:
  // Throws UserError(kBadData) if the file cannot be read.
  static std::unique_ptr<InputStream> Open(const std::string& path);
  virtual ~InputStream() = default;

  // Fills the front of `buffer` (not empty) and returns how much; 0 at the end. Throws
  // UserError(kBadData) with the offset in the file for damaged or truncated compressed data.
  virtual size_t Read(std::span<char> buffer) = 0;

  // Bytes of the file used so far (compressed ones, for progress).
  virtual int64_t position() const = 0;
};

// `path` without a final .gz or .zst.
std::string UncompressedName(const std::string& path);

}  // namespace sepia::data
