#include "base/atomic_file.h"

#include <unistd.h>

#include <cerrno>

#include <fmt/core.h>

#include "base/error.h"
#include "base/file_calls.h"

namespace sepia {

AtomicFile::AtomicFile(const std::string& path)
    : path_(path),
      temporary_(fmt::format("{}.tmp-{}", path, getpid())),
      file_(File::Create(temporary_)) {}

AtomicFile::~AtomicFile() {
  if (!committed_) ActiveFileCalls().Unlink(temporary_);
}

void AtomicFile::Commit() {
  file_.Sync();
  file_.Close();
  if (ActiveFileCalls().Rename(temporary_, path_, 0) != 0) throw CannotWrite(path_, errno);
  committed_ = true;
  SyncDirectory(DirectoryOf(path_));
}

}  // namespace sepia
