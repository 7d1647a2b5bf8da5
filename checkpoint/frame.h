// Small binary files that cannot be read wrong: magic, length, message, CRC32C over all of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sepia::checkpoint {

inline constexpr std::string_view kManifestMagic{"SEPCKPT\0", 8};
inline constexpr std::string_view kCommitMagic{"SEPCMIT\0", 8};

// magic (8) | u32 version 1 | u32 flags 0 | u64 length | payload | u32 crc32c of all before it
std::string MakeFrame(std::string_view magic, std::string_view payload);

// The payload of a framed file of at most `max_bytes`. Throws BadData naming file and reason.
std::string ReadFrame(const std::string& path, std::string_view magic, int64_t max_bytes);

// The payload of framed `text`, which came from `path`.
std::string_view ParseFrame(std::string_view text, std::string_view magic, const std::string& path);

}  // namespace sepia::checkpoint
