// Writes one .npy file, appended in pieces, under a temporary name until it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace sepia::data {

class NpyWriter {
 public:
  // Reserves the space for the whole array at once. Throws kCannotWrite.
  NpyWriter(const std::string& path, const std::string& descr, std::vector<int64_t> shape);
  // Removes the temporary file unless Finish() was called.
  ~NpyWriter();
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

  void Append(std::span<const std::byte> bytes);
  // Syncs and renames over `path`. The caller syncs the directory.
  void Finish();

 private:
  void Flush();

  std::string path_;
  std::string temporary_;
  File file_;
  std::vector<std::byte> pending_;
};

}  // namespace sepia::data
