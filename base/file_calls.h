// The system calls behind base/file.h and base/directory.h. Tests replace them to record what is
// written, synced and renamed, or to let one of them fail.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace sepia {

// Every call returns what the system call of that name returns: -1 with errno on failure. The base
// class makes the calls. Thread-safe, as overrides must be.
class FileCalls {
 public:
  virtual ~FileCalls() = default;

  virtual int Open(const std::string& path, int flags);  // O_CLOEXEC is added
  virtual ssize_t Write(int fd, std::span<const std::byte> bytes);
  virtual ssize_t WriteAt(int fd, std::span<const std::byte> bytes, int64_t offset);
  virtual ssize_t ReadAt(int fd, std::span<std::byte> bytes, int64_t offset);
  virtual int Truncate(int fd, int64_t size);
  virtual int Preallocate(int fd, int64_t size);
  virtual int Sync(int fd);
  virtual int Close(int fd);
  virtual int Rename(const std::string& from, const std::string& to, unsigned flags);
  virtual int MakeDirectory(const std::string& path);
  virtual int Unlink(const std::string& path);
  virtual int RemoveDirectory(const std::string& path);
};

// Those in use: the system's, but for the life time of a ScopedFileCalls.
FileCalls& ActiveFileCalls();

// Tests only. Not nested; no file may be open at either end in another thread.
class ScopedFileCalls {
 public:
  explicit ScopedFileCalls(FileCalls* calls);
  ~ScopedFileCalls();
  ScopedFileCalls(const ScopedFileCalls&) = delete;
  ScopedFileCalls& operator=(const ScopedFileCalls&) = delete;
};

}  // namespace sepia
