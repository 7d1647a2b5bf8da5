// File calls of which one, or all from one on, fail.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>

#include "base/file_calls.h"

namespace sepia::checkpoint::testing {

struct Fault {
  int64_t call = 0;       // the first one that fails, counted from 1; 0: none
  bool for_ever = false;  // and all after it
  int error = 0;          // errno; 0: writes are short and everything else works
  std::string path = {};  // count and fail only calls on paths that contain this
};

// Counts every call but reads, which a save does not depend on. Thread-safe.
class FaultyCalls : public FileCalls {
 public:
  explicit FaultyCalls(Fault fault = {}) : fault_(std::move(fault)) {}

  int64_t count() const { return count_; }

  int Open(const std::string& path, int flags) override;
  ssize_t Write(int fd, std::span<const std::byte> bytes) override;
  ssize_t WriteAt(int fd, std::span<const std::byte> bytes, int64_t offset) override;
  int Truncate(int fd, int64_t size) override;
  int Preallocate(int fd, int64_t size) override;
  int Sync(int fd) override;
  int Close(int fd) override;
  int Rename(const std::string& from, const std::string& to, unsigned flags) override;
  int MakeDirectory(const std::string& path) override;
  int Unlink(const std::string& path) override;
  int RemoveDirectory(const std::string& path) override;

 private:
  std::string PathOf(int fd);
  // Counts; whether this call is to fail (with errno set) or, with error 0, to fall short.
  bool Strikes(const std::string& path);
  // Whether this call fails as a whole.
  bool Fails(const std::string& path) { return Strikes(path) && fault_.error != 0; }

  const Fault fault_;
  std::atomic<int64_t> count_ = 0;
  std::mutex mutex_;
  std::map<int, std::string> paths_;  // of open descriptors
};

}  // namespace sepia::checkpoint::testing
