#include "trainer/run_directory.h"

#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include <fmt/core.h>

#include "base/clock.h"
#include "base/error.h"
#include "trainer/process.h"

namespace sepia::trainer {
namespace {

constexpr int64_t kMaxLockText = 4096;

void Lock(sepia::File& file) {
  if (flock(file.fd(), LOCK_EX | LOCK_NB) == 0) return;
  if (errno != EWOULDBLOCK) {
    throw CannotWrite(file.path(), errno, "this file system does not support locks (flock)");
  }
  std::string holder = ReadFile(file.path(), kMaxLockText);
  if (!holder.empty() && holder.back() == '\n') holder.pop_back();
  throw UserError(fmt::format(
      "{}: another run is using this directory: {}; wait for it, stop it with kill -USR1, or "
      "choose another --run-dir",
      DirectoryOf(file.path()), holder.empty() ? "unknown process" : holder));
}

void SetAside(const std::string& path) {
  if (!FileExists(path)) return;
  int number = 1;
  while (FileExists(fmt::format("{}-{}", path, number))) ++number;
  const std::string aside = fmt::format("{}-{}", path, number);
  if (rename(path.c_str(), aside.c_str()) != 0) throw CannotWrite(aside, errno);
}

}  // namespace

RunDirectory::RunDirectory(const std::string& path, bool owner) : path_(path) {
  if (!owner) return;
  CreateDirectories(path);
  lock_ = sepia::File::OpenForAppend(File("lock"));
  Lock(lock_);
  // Only now: the holder's text must stay readable for those who are refused.
  lock_.Truncate(0);
  lock_.Write(
      fmt::format("host {} process {} since {}\n", HostName(), getpid(), FormatUtc(WallSeconds())));
  SetAside(hang());
  CreateDirectories(samples());
  CreateDirectories(File("logs"));
}

}  // namespace sepia::trainer
