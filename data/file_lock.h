// A lock between processes: held while the object lives, given back by the kernel if the process
// dies.
#pragma once

#include <optional>
#include <string>

#include "base/file.h"

namespace sepia::data {

class FileLock {
 public:
  // Creates `path` and waits for the lock; logs when it has to wait. The file is removed at the
  // end. nullopt if the folder cannot be written or the file system has no locks.
  static std::optional<FileLock> Acquire(const std::string& path);
  ~FileLock();
  FileLock(FileLock&&) noexcept = default;
  FileLock& operator=(FileLock&&) = delete;

 private:
  explicit FileLock(File file) : file_(std::move(file)) {}

  File file_;
};

}  // namespace sepia::data
