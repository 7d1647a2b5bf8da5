#include "checkpoint/torch/zip_archive.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include <zlib.h>

#include "base/error.h"

namespace sepia::checkpoint {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr int64_t kLocalBytes = 30;
constexpr int64_t kCentralBytes = 46;
constexpr int64_t kEndBytes = 22;
constexpr int64_t kEnd64Bytes = 56;
constexpr int64_t kLocator64Bytes = 20;
constexpr int64_t kMaxCommentBytes = 0xFFFF;
constexpr uint64_t kMaxEntries = 1'000'000;
constexpr uint16_t kZip64Extra = 1;
constexpr uint16_t kEncryptedFlags = 1 | 1 << 6 | 1 << 13;

// Little-endian numbers at checked positions.
class Bytes {
 public:
  Bytes(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  [[noreturn]] void Fail(int64_t offset, const std::string& reason) const {
    throw BadData(path_, offset, reason, "the file is damaged, incomplete or not of torch.save");
  }
  bool Holds(int64_t offset, int64_t count) const {
    return offset >= 0 && count >= 0 && offset <= size() && count <= size() - offset;
  }
  template <typename T>
  T Get(int64_t offset) const {
    if (!Holds(offset, sizeof(T))) Fail(offset, "the zip archive ends inside a record");
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }
  std::string_view Text(int64_t offset, int64_t count) const {
    if (!Holds(offset, count)) Fail(offset, "a name leaves the zip archive");
    return {reinterpret_cast<const char*>(bytes_.data()) + offset, static_cast<size_t>(count)};
  }
  std::span<const std::byte> Range(int64_t offset, int64_t count) const {
    return bytes_.subspan(static_cast<size_t>(offset), static_cast<size_t>(count));
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
};

struct Directory {
  int64_t offset = 0;
  int64_t bytes = 0;
  uint64_t entries = 0;
};

int64_t FindEnd(const Bytes& archive) {
  const int64_t first = std::max<int64_t>(0, archive.size() - kEndBytes - kMaxCommentBytes);
  for (int64_t at = archive.size() - kEndBytes; at >= first; --at) {
    if (archive.Get<uint32_t>(at) == kEndSignature &&
        at + kEndBytes + archive.Get<uint16_t>(at + 20) == archive.size()) {
      return at;
    }
  }
  archive.Fail(archive.size(), "no end of central directory: the zip archive is cut short");
}

// The 64-bit record, where there is one; `end` is the offset of the 32-bit one.
std::optional<int64_t> FindEnd64(const Bytes& archive, int64_t end) {
  const int64_t locator = end - kLocator64Bytes;
  if (locator < 0 || archive.Get<uint32_t>(locator) != kLocator64Signature) return std::nullopt;
  if (archive.Get<uint32_t>(locator + 4) != 0 || archive.Get<uint32_t>(locator + 16) > 1) {
    archive.Fail(locator, "a multi-disk zip archive");
  }
  const auto at = archive.Get<uint64_t>(locator + 8);
  if (at > static_cast<uint64_t>(locator) ||
      archive.Get<uint32_t>(static_cast<int64_t>(at)) != kEnd64Signature ||
      static_cast<int64_t>(at) + kEnd64Bytes != locator) {
    archive.Fail(locator, "the zip64 end of central directory is not where its locator says");
  }
  return static_cast<int64_t>(at);
}

// Where both end records hold a number, they agree: readers differ in which one they believe.
template <typename Narrow>
void CheckAgreement(const Bytes& archive, int64_t end, int64_t field, uint64_t wide) {
  const auto narrow = archive.Get<Narrow>(end + field);
  if (narrow == std::numeric_limits<Narrow>::max() || narrow == wide) return;
  archive.Fail(end, "the two ends of the central directory disagree");
}

Directory FindDirectory(const Bytes& archive) {
  const int64_t end = FindEnd(archive);
  uint64_t disks = archive.Get<uint16_t>(end + 4) | archive.Get<uint16_t>(end + 6);
  uint64_t on_this_disk = archive.Get<uint16_t>(end + 8);
  uint64_t entries = archive.Get<uint16_t>(end + 10);
  uint64_t bytes = archive.Get<uint32_t>(end + 12);
  uint64_t offset = archive.Get<uint32_t>(end + 16);
  int64_t behind = end;
  if (const auto end64 = FindEnd64(archive, end)) {
    behind = *end64;
    disks |= archive.Get<uint32_t>(behind + 16) | archive.Get<uint32_t>(behind + 20);
    on_this_disk = archive.Get<uint64_t>(behind + 24);
    entries = archive.Get<uint64_t>(behind + 32);
    bytes = archive.Get<uint64_t>(behind + 40);
    offset = archive.Get<uint64_t>(behind + 48);
    CheckAgreement<uint16_t>(archive, end, 8, on_this_disk);
    CheckAgreement<uint16_t>(archive, end, 10, entries);
    CheckAgreement<uint32_t>(archive, end, 12, bytes);
    CheckAgreement<uint32_t>(archive, end, 16, offset);
  }
  if (disks != 0 || on_this_disk != entries) archive.Fail(behind, "a multi-disk zip archive");
  const auto limit = static_cast<uint64_t>(behind);
  if (offset > limit || bytes != limit - offset) {
    archive.Fail(behind, "the central directory is not where the end of the archive says");
  }
  if (entries > kMaxEntries || entries > bytes / kCentralBytes) {
    archive.Fail(behind, fmt::format("{} zip entries do not fit the central directory", entries));
  }
  return {static_cast<int64_t>(offset), static_cast<int64_t>(bytes), entries};
}

// 64-bit values of the fields that hold all ones, in the order of the extra field.
class Zip64Fields {
 public:
  Zip64Fields(const Bytes& archive, int64_t begin, int64_t end) : archive_(archive) {
    while (end - begin >= 4) {
      const auto id = archive.Get<uint16_t>(begin);
      const int64_t size = archive.Get<uint16_t>(begin + 2);
      if (size > end - begin - 4) archive.Fail(begin, "an extra field of the zip archive is cut");
      if (id == kZip64Extra) {
        at_ = begin + 4;
        end_ = at_ + size;
        return;
      }
      begin += 4 + size;
    }
  }

  uint64_t Resolve(uint32_t field) {
    if (field != UINT32_MAX) return field;
    if (end_ - at_ < 8) archive_.Fail(at_, "a zip64 field is missing");
    at_ += 8;
    return archive_.Get<uint64_t>(at_ - 8);
  }

 private:
  const Bytes& archive_;
  int64_t at_ = 0;
  int64_t end_ = 0;
};

bool HasParentPart(std::string_view name) {
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    if (name.substr(begin, end - begin) == "..") return true;
    begin = end + 1;
  }
  return false;
}

void CheckName(const Bytes& archive, int64_t at, std::string_view name) {
  const bool bad = name.empty() || name.front() == '/' || HasParentPart(name) ||
                   name.find_first_of(std::string_view("\\\0", 2)) != std::string_view::npos;
  if (bad) archive.Fail(at, "a bad entry name: names stay inside the archive");
}

// Sets offset and bytes of `entry` from its local header.
void FindContent(const Bytes& archive, uint64_t size, int64_t directory, ZipEntry* entry) {
  const int64_t at = entry->header_offset;
  if (at > directory - kLocalBytes || archive.Get<uint32_t>(at) != kLocalSignature) {
    archive.Fail(at, fmt::format("no local header of '{}'", entry->name));
  }
  const int64_t name_bytes = archive.Get<uint16_t>(at + 26);
  if (archive.Text(at + kLocalBytes, name_bytes) != entry->name) {
    archive.Fail(at, fmt::format("local and central names of '{}' differ", entry->name));
  }
  entry->offset = at + kLocalBytes + name_bytes + archive.Get<uint16_t>(at + 28);
  if (entry->offset > directory || size > static_cast<uint64_t>(directory - entry->offset)) {
    archive.Fail(at, fmt::format("entry '{}' leaves the file", entry->name));
  }
  entry->bytes = archive.Range(entry->offset, static_cast<int64_t>(size));
}

// Reads the entry at `at` and returns where the next one is.
int64_t ReadEntry(const Bytes& archive, int64_t at, const Directory& directory, ZipEntry* entry) {
  const int64_t end = directory.offset + directory.bytes;
  if (end - at < kCentralBytes || archive.Get<uint32_t>(at) != kCentralSignature) {
    archive.Fail(at, "the central directory is damaged");
  }
  const int64_t name = at + kCentralBytes;
  const int64_t extra = name + archive.Get<uint16_t>(at + 28);
  const int64_t comment = extra + archive.Get<uint16_t>(at + 30);
  const int64_t next = comment + archive.Get<uint16_t>(at + 32);
  if (next > end) archive.Fail(at, "an entry leaves the central directory");
  entry->name = archive.Text(name, extra - name);
  CheckName(archive, at, entry->name);
  if ((archive.Get<uint16_t>(at + 8) & kEncryptedFlags) != 0) {
    archive.Fail(at, fmt::format("entry '{}' is encrypted", entry->name));
  }
  Zip64Fields wide(archive, extra, comment);
  const uint64_t size = wide.Resolve(archive.Get<uint32_t>(at + 24));
  const uint64_t stored = wide.Resolve(archive.Get<uint32_t>(at + 20));
  const uint64_t header = wide.Resolve(archive.Get<uint32_t>(at + 42));
  if (archive.Get<uint16_t>(at + 10) != 0) {
    archive.Fail(at, fmt::format("compressed member '{}': torch.save stores", entry->name));
  }
  if (size != stored) archive.Fail(at, fmt::format("sizes of '{}' differ", entry->name));
  if (header > static_cast<uint64_t>(directory.offset)) {
    archive.Fail(at, fmt::format("entry '{}' leaves the file", entry->name));
  }
  entry->crc32 = archive.Get<uint32_t>(at + 16);
  entry->header_offset = static_cast<int64_t>(header);
  FindContent(archive, size, directory.offset, entry);
  return next;
}

void RefuseOverlaps(const Bytes& archive, std::vector<ZipEntry>* entries) {
  std::sort(entries->begin(), entries->end(),
            [](const auto& a, const auto& b) { return a.header_offset < b.header_offset; });
  for (size_t i = 1; i < entries->size(); ++i) {
    const ZipEntry& before = (*entries)[i - 1];
    if (before.offset + static_cast<int64_t>(before.bytes.size()) > (*entries)[i].header_offset) {
      archive.Fail((*entries)[i].header_offset, fmt::format("zip entries '{}' and '{}' overlap",
                                                            before.name, (*entries)[i].name));
    }
  }
}

}  // namespace

std::vector<ZipEntry> ReadZipEntries(std::span<const std::byte> archive_bytes,
                                     const std::string& path) {
  const Bytes archive(archive_bytes, path);
  const Directory directory = FindDirectory(archive);
  std::vector<ZipEntry> entries(directory.entries);
  int64_t at = directory.offset;
  for (ZipEntry& entry : entries) at = ReadEntry(archive, at, directory, &entry);
  if (at != directory.offset + directory.bytes) {
    archive.Fail(at, "the central directory holds more than its entries");
  }
  RefuseOverlaps(archive, &entries);
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i - 1].name == entries[i].name) {
      archive.Fail(entries[i].header_offset,
                   fmt::format("the entry name '{}' appears twice", entries[i].name));
    }
  }
  return entries;
}

void CheckZipCrc(const ZipEntry& entry, const std::string& path) {
  if (entry.crc32 == 0) return;
  const auto* bytes = reinterpret_cast<const Bytef*>(entry.bytes.data());
  const auto crc = static_cast<uint32_t>(crc32_z(0, bytes, entry.bytes.size()));
  if (crc == entry.crc32) return;
  throw BadData(
      path, entry.offset,
      fmt::format("'{}' has CRC-32 {:08x}, the archive says {:08x}", entry.name, crc, entry.crc32),
      "the file is damaged; fetch it again");
}

}  // namespace sepia::checkpoint
