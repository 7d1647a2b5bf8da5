// Files: complete writes, durable renames, bounded reads. Every failure is a UserError that names
// the path and the system's reason: kBadData for reading, kCannotWrite for writing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace sepia {

// An open descriptor. Move-only; the destructor closes without checking, so writers call Close().
class File {
 public:
  File() = default;
  static File OpenForRead(const std::string& path);
  // Creates or truncates.
  static File Create(const std::string& path);
  static File OpenForAppend(const std::string& path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

  int64_t Size() const;
  // Loops over short writes and EINTR.
  void Write(std::span<const std::byte> bytes);
  void Write(std::string_view text);
  void WriteAt(int64_t offset, std::span<const std::byte> bytes);
  // Throws kBadData when the file ends before `bytes` is full.
  void ReadAt(int64_t offset, std::span<std::byte> bytes) const;
  void Truncate(int64_t size);
  // Reserves disk space now, so that a full disk is found before anything is written.
  void Preallocate(int64_t size);
  // An error is final for this file: the kernel may have dropped the dirty pages.
  void Sync();
  // Closes and reports errors that close() reveals.
  void Close();

 private:
  File(int fd, std::string path);

  int fd_ = -1;
  std::string path_;
};

// A read-only mapping of a whole file. An empty file maps to an empty span.
// The file must not be truncated while mapped (the kernel would send SIGBUS).
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  const std::string& path() const { return path_; }

 private:
  std::span<const std::byte> bytes_;
  std::string path_;
};

// The whole file; refuses files larger than `max_bytes` (kBadData).
std::string ReadFile(const std::string& path, int64_t max_bytes = int64_t{1} << 32);

// Writes to a temporary name in the same directory, syncs, renames over `path`, syncs the
// directory: after a crash either the old or the new content is there, never a mixture.
void WriteFileAtomic(const std::string& path, std::string_view content);

void SyncDirectory(const std::string& path);

// Renames, refusing to replace an existing target.
void RenameNoReplace(const std::string& from, const std::string& to);

bool FileExists(const std::string& path);

// mkdir -p.
void CreateDirectories(const std::string& path);

// Directory part of a path ("." when there is none).
std::string DirectoryOf(const std::string& path);

}  // namespace sepia
