// A file that appears under its name complete and synced, or not at all.
#pragma once

#include <string>

#include "base/file.h"

namespace sepia {

// Written under a temporary name in the same directory. Commit() syncs, renames over `path` and
// syncs the directory; without it the destructor removes the temporary file. Not movable.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  File& file() { return file_; }
  const std::string& path() const { return path_; }
  void Commit();

 private:
  std::string path_;
  std::string temporary_;
  File file_;
  bool committed_ = false;
};

}  // namespace sepia
