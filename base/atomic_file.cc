#include "base/atomic_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include <fmt/core.h>

#include "base/error.h"

namespace sepia {

AtomicFile::AtomicFile(const std::string& path)
    : path_(path),
      temporary_(fmt::format("{}.tmp-{}", path, getpid())),
      file_(File::Create(temporary_)) {}

AtomicFile::~AtomicFile() {
  if (!committed_) unlink(temporary_.c_str());
}

void AtomicFile::Commit() {
  file_.Sync();
  file_.Close();
  if (rename(temporary_.c_str(), path_.c_str()) != 0) throw CannotWrite(path_, errno);
  committed_ = true;
  SyncDirectory(DirectoryOf(path_));
}

}  // namespace sepia
