#include "base/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace sepia {
namespace {

UserError CannotRead(const std::string& path, int system_errno) {
  const char* remedy = system_errno == ENOENT   ? "check the path"
                       : system_errno == EACCES ? "check the permissions"
                                                : "";
  return BadData(path, -1, fmt::format("cannot read: {}", std::strerror(system_errno)), remedy);
}

UserError CannotCreate(const std::string& path, int system_errno) {
  const char* remedy = system_errno == ENOENT                            ? "create its folder first"
                       : system_errno == EACCES || system_errno == EROFS ? "check the permissions"
                                                                         : "";
  return CannotWrite(path, system_errno, remedy);
}

int OpenOrThrow(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (fd >= 0) return fd;
  const bool writing = (flags & O_ACCMODE) != O_RDONLY;
  throw writing ? CannotCreate(path, errno) : CannotRead(path, errno);
}

// Says how much room there is: "disk full" alone sends people looking in the wrong place.
UserError WriteFailed(const std::string& path, int system_errno) {
  if (system_errno != ENOSPC && system_errno != EDQUOT) return CannotWrite(path, system_errno);
  struct statvfs info {};
  std::string remedy = "free some space";
  if (statvfs(DirectoryOf(path).c_str(), &info) == 0) {
    const double free_mib =
        static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize) / (1 << 20);
    remedy = fmt::format("{:.1f} MiB are free there; free some space", free_mib);
  }
  return CannotWrite(path, system_errno, remedy);
}

}  // namespace

File::File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

File File::OpenForRead(const std::string& path) { return File(OpenOrThrow(path, O_RDONLY), path); }

File File::Create(const std::string& path) {
  return File(OpenOrThrow(path, O_RDWR | O_CREAT | O_TRUNC), path);
}

File File::OpenForAppend(const std::string& path) {
  return File(OpenOrThrow(path, O_WRONLY | O_CREAT | O_APPEND), path);
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

int64_t File::Size() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0) throw CannotRead(path_, errno);
  return info.st_size;
}

void File::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw WriteFailed(path_, errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void File::Write(std::string_view text) { Write(std::as_bytes(std::span(text))); }

void File::WriteAt(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw WriteFailed(path_, errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

void File::ReadAt(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = pread(fd_, bytes.data(), bytes.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw CannotRead(path_, errno);
    if (got == 0) throw BadData(path_, offset, "the file ends here", "it is truncated");
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += got;
  }
}

void File::Truncate(int64_t size) {
  if (ftruncate(fd_, size) != 0) throw WriteFailed(path_, errno);
}

void File::Preallocate(int64_t size) {
  if (size == 0) return;
  const int error = posix_fallocate(fd_, 0, size);
  if (error == EINVAL || error == EOPNOTSUPP) return;  // the file system cannot reserve
  if (error != 0) throw WriteFailed(path_, error);
}

void File::Sync() {
  if (fsync(fd_) != 0) throw WriteFailed(path_, errno);
}

void File::Close() {
  if (close(std::exchange(fd_, -1)) != 0) throw WriteFailed(path_, errno);
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const File file = File::OpenForRead(path);
  const auto size = static_cast<size_t>(file.Size());
  if (size == 0) return;
  void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (memory == MAP_FAILED) throw CannotRead(path, errno);
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(path_, other.path_);
  return *this;
}

std::string ReadFile(const std::string& path, int64_t max_bytes) {
  const File file = File::OpenForRead(path);
  const int64_t size = file.Size();
  if (size > max_bytes) {
    throw BadData(path, -1,
                  fmt::format("{} bytes, more than the {} allowed here", size, max_bytes));
  }
  std::string content(static_cast<size_t>(size), '\0');
  file.ReadAt(0, std::as_writable_bytes(std::span(content)));
  return content;
}

void WriteFileAtomic(const std::string& path, std::string_view content) {
  const std::string temporary = fmt::format("{}.tmp-{}", path, getpid());
  try {
    File file = File::Create(temporary);
    file.Write(content);
    file.Sync();
    file.Close();
    if (rename(temporary.c_str(), path.c_str()) != 0) throw CannotWrite(path, errno);
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
  SyncDirectory(DirectoryOf(path));
}

void SyncDirectory(const std::string& path) {
  File directory = File::OpenForRead(path);
  directory.Sync();
}

void RenameNoReplace(const std::string& from, const std::string& to) {
  if (syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
    return;
  }
  if (errno != EINVAL && errno != ENOSYS) throw CannotWrite(to, errno);
  // The file system has no atomic form.
  if (FileExists(to)) throw CannotWrite(to, EEXIST);
  if (rename(from.c_str(), to.c_str()) != 0) throw CannotWrite(to, errno);
}

bool FileExists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0;
}

void CreateDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw CannotWrite(path, error.value());
}

std::string DirectoryOf(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path();
  return directory.empty() ? "." : directory;
}

}  // namespace sepia
