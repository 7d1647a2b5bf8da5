#include "data/file_lock.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/log.h"

namespace sepia::data {
namespace {

bool Lock(const File& file) {
  if (flock(file.fd(), LOCK_EX | LOCK_NB) == 0) return true;
  if (errno != EWOULDBLOCK) return false;
  LogInfo("waiting for another process that holds {}", file.path());
  while (flock(file.fd(), LOCK_EX) != 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

// The holder before us may have removed the file that we waited for.
bool IsStillThere(const File& file) {
  struct stat ours {};
  struct stat there {};
  return fstat(file.fd(), &ours) == 0 && stat(file.path().c_str(), &there) == 0 &&
         ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

}  // namespace

std::optional<FileLock> FileLock::Acquire(const std::string& path) {
  try {
    while (true) {
      File file = File::OpenForAppend(path);
      if (!Lock(file)) return std::nullopt;
      if (IsStillThere(file)) return FileLock(std::move(file));
    }
  } catch (const UserError&) {
    return std::nullopt;
  }
}

FileLock::~FileLock() {
  if (file_.is_open()) unlink(file_.path().c_str());
}

}  // namespace sepia::data
