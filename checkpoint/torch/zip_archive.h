// The zip container of torch.save: stored members only, zip64 included. Compression, encryption
// and split archives are refused; nothing is unpacked, members are ranges of the mapped file.
// Format: PKWARE APPNOTE 6.3, sections 4.3 and 4.5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sepia::checkpoint {

struct ZipEntry {
  std::string_view name;  // into the archive
  std::span<const std::byte> bytes;
  int64_t offset = 0;  // of `bytes` in the archive
  uint32_t crc32 = 0;
  int64_t header_offset = 0;  // of the local header
};

// The members of `archive`, sorted by name, unique, inside the archive and disjoint. Sizes are the
// central directory's: torch leaves those of the local headers zero. Contents are not checked yet.
// Throws BadData naming `path`.
std::vector<ZipEntry> ReadZipEntries(std::span<const std::byte> archive, const std::string& path);

// Throws BadData when the content is not what the writer's CRC-32 was made of. A stored value of 0
// means that the writer left it out (torch >= 2.6 can).
void CheckZipCrc(const ZipEntry& entry, const std::string& path);

}  // namespace sepia::checkpoint
