#include "base/file_calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

namespace sepia {
namespace {

std::atomic<FileCalls*> g_replacement = nullptr;

}  // namespace

int FileCalls::Open(const std::string& path, int flags) {
  return open(path.c_str(), flags | O_CLOEXEC, 0666);
}

ssize_t FileCalls::Write(int fd, std::span<const std::byte> bytes) {
  return write(fd, bytes.data(), bytes.size());
}

ssize_t FileCalls::WriteAt(int fd, std::span<const std::byte> bytes, int64_t offset) {
  return pwrite(fd, bytes.data(), bytes.size(), offset);
}

ssize_t FileCalls::ReadAt(int fd, std::span<std::byte> bytes, int64_t offset) {
  return pread(fd, bytes.data(), bytes.size(), offset);
}

int FileCalls::Truncate(int fd, int64_t size) { return ftruncate(fd, size); }

int FileCalls::Preallocate(int fd, int64_t size) {
  const int error = posix_fallocate(fd, 0, size);
  if (error == 0) return 0;
  errno = error;
  return -1;
}

int FileCalls::Sync(int fd) { return fsync(fd); }

int FileCalls::Close(int fd) { return close(fd); }

int FileCalls::Rename(const std::string& from, const std::string& to, unsigned flags) {
  if (flags == 0) return rename(from.c_str(), to.c_str());
  return static_cast<int>(
      syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
}

int FileCalls::MakeDirectory(const std::string& path) { return mkdir(path.c_str(), 0777); }

int FileCalls::Unlink(const std::string& path) { return unlink(path.c_str()); }

int FileCalls::RemoveDirectory(const std::string& path) { return rmdir(path.c_str()); }

FileCalls& ActiveFileCalls() {
  static FileCalls system;
  FileCalls* replacement = g_replacement.load();
  return replacement == nullptr ? system : *replacement;
}

ScopedFileCalls::ScopedFileCalls(FileCalls* calls) { g_replacement = calls; }

ScopedFileCalls::~ScopedFileCalls() { g_replacement = nullptr; }

}  // namespace sepia
