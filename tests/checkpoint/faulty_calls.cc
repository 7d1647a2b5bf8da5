#include "tests/checkpoint/faulty_calls.h"

#include <algorithm>
#include <cerrno>

namespace sepia::checkpoint::testing {

std::string FaultyCalls::PathOf(int fd) {
  const std::lock_guard lock(mutex_);
  return paths_[fd];
}

bool FaultyCalls::Strikes(const std::string& path) {
  if (path.find(fault_.path) == std::string::npos) return false;
  const int64_t call = ++count_;
  if (fault_.call == 0 || call < fault_.call) return false;
  if (call > fault_.call && !fault_.for_ever) return false;
  errno = fault_.error;
  return true;
}

int FaultyCalls::Open(const std::string& path, int flags) {
  if (Fails(path)) return -1;
  const int fd = FileCalls::Open(path, flags);
  if (fd < 0) return fd;
  const std::lock_guard lock(mutex_);
  paths_[fd] = path;
  return fd;
}

// Short writes make progress: at least one byte.
ssize_t FaultyCalls::Write(int fd, std::span<const std::byte> bytes) {
  if (Strikes(PathOf(fd))) {
    if (fault_.error != 0) return -1;
    bytes = bytes.first(std::max<size_t>(bytes.size() / 2, 1));
  }
  return FileCalls::Write(fd, bytes);
}

ssize_t FaultyCalls::WriteAt(int fd, std::span<const std::byte> bytes, int64_t offset) {
  if (Strikes(PathOf(fd))) {
    if (fault_.error != 0) return -1;
    bytes = bytes.first(std::max<size_t>(bytes.size() / 2, 1));
  }
  return FileCalls::WriteAt(fd, bytes, offset);
}

int FaultyCalls::Truncate(int fd, int64_t size) {
  return Fails(PathOf(fd)) ? -1 : FileCalls::Truncate(fd, size);
}

int FaultyCalls::Preallocate(int fd, int64_t size) {
  return Fails(PathOf(fd)) ? -1 : FileCalls::Preallocate(fd, size);
}

int FaultyCalls::Sync(int fd) { return Fails(PathOf(fd)) ? -1 : FileCalls::Sync(fd); }

// The descriptor is gone even when close fails, as on Linux.
int FaultyCalls::Close(int fd) {
  const std::string path = PathOf(fd);
  const int result = FileCalls::Close(fd);
  return Fails(path) ? -1 : result;
}

int FaultyCalls::Rename(const std::string& from, const std::string& to, unsigned flags) {
  return Fails(to) ? -1 : FileCalls::Rename(from, to, flags);
}

int FaultyCalls::MakeDirectory(const std::string& path) {
  return Fails(path) ? -1 : FileCalls::MakeDirectory(path);
}

int FaultyCalls::Unlink(const std::string& path) {
  return Fails(path) ? -1 : FileCalls::Unlink(path);
}

int FaultyCalls::RemoveDirectory(const std::string& path) {
  return Fails(path) ? -1 : FileCalls::RemoveDirectory(path);
}

}  // namespace sepia::checkpoint::testing
