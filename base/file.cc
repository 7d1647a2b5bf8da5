#include "base/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/directory.h"
#include "base/error.h"
#include "base/file_calls.h"

namespace sepia {
namespace {

// Calls again while a signal interrupts; a file system that answers so for ever is broken.
template <typename Call>
auto Retried(const Call& call) {
  constexpr int kMostInterruptions = 1000;
  auto result = call();
  for (int i = 0; result < 0 && errno == EINTR && i < kMostInterruptions; ++i) result = call();
  return result;
}

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
  const int fd = Retried([&] { return ActiveFileCalls().Open(path, flags); });
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
  if (fd_ >= 0) ActiveFileCalls().Close(fd_);
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
    const ssize_t written = Retried([&] { return ActiveFileCalls().Write(fd_, bytes); });
    if (written <= 0) throw WriteFailed(path_, written < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void File::Write(std::string_view text) { Write(std::as_bytes(std::span(text))); }

void File::WriteAt(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = Retried([&] { return ActiveFileCalls().WriteAt(fd_, bytes, offset); });
    if (written <= 0) throw WriteFailed(path_, written < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

void File::ReadAt(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = Retried([&] { return ActiveFileCalls().ReadAt(fd_, bytes, offset); });
    if (got < 0) throw CannotRead(path_, errno);
    if (got == 0) throw BadData(path_, offset, "the file ends here", "it is truncated");
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += got;
  }
}

void File::Truncate(int64_t size) {
  if (Retried([&] { return ActiveFileCalls().Truncate(fd_, size); }) != 0) {
    throw WriteFailed(path_, errno);
  }
}

void File::Preallocate(int64_t size) {
  if (size == 0) return;
  if (Retried([&] { return ActiveFileCalls().Preallocate(fd_, size); }) == 0) return;
  if (errno == EINVAL || errno == EOPNOTSUPP) return;  // the file system cannot reserve
  throw WriteFailed(path_, errno);
}

void File::Sync() {
  if (ActiveFileCalls().Sync(fd_) != 0) throw WriteFailed(path_, errno);
}

void File::Close() {
  if (ActiveFileCalls().Close(std::exchange(fd_, -1)) != 0) throw WriteFailed(path_, errno);
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
    if (ActiveFileCalls().Rename(temporary, path, 0) != 0) throw CannotWrite(path, errno);
  } catch (...) {
    ActiveFileCalls().Unlink(temporary);
    throw;
  }
  SyncDirectory(DirectoryOf(path));
}

void SyncDirectory(const std::string& path) {
  const int fd = Retried([&] { return ActiveFileCalls().Open(path, O_RDONLY | O_DIRECTORY); });
  if (fd < 0) throw CannotWrite(path, errno);
  const int error = ActiveFileCalls().Sync(fd) == 0 ? 0 : errno;
  ActiveFileCalls().Close(fd);
  // EINVAL: a file system whose directories cannot be synced.
  if (error != 0 && error != EINVAL) throw WriteFailed(path, error);
}

void RenameNoReplace(const std::string& from, const std::string& to) {
  if (ActiveFileCalls().Rename(from, to, RENAME_NOREPLACE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) throw CannotWrite(to, errno);
  // The file system has no atomic form.
  if (FileExists(to)) throw CannotWrite(to, EEXIST);
  if (ActiveFileCalls().Rename(from, to, 0) != 0) throw CannotWrite(to, errno);
}

bool FileExists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0;
}

void CreateDirectories(const std::string& path) {
  std::error_code error;
  if (path.empty() || std::filesystem::is_directory(path, error)) return;
  const std::string parent = std::filesystem::path(path).parent_path();
  CreateDirectories(parent);
  MakeDirectory(path);
  SyncDirectory(parent.empty() ? "." : parent);
}

std::string DirectoryOf(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path();
  return directory.empty() ? "." : directory;
}

}  // namespace sepia
