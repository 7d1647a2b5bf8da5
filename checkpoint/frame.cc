#include "checkpoint/frame.h"

#include <cstring>
#include <span>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"

namespace sepia::checkpoint {
namespace {

constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 24;
constexpr size_t kCrcBytes = 4;

template <typename T>
void Append(std::string* text, T value) {
  text->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T Load(std::string_view text, size_t offset) {
  T value;
  std::memcpy(&value, text.data() + offset, sizeof(value));
  return value;
}

uint32_t CrcOf(std::string_view text) {
  return Crc32c(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace

std::string MakeFrame(std::string_view magic, std::string_view payload) {
  std::string text(magic);
  Append(&text, kVersion);
  Append(&text, uint32_t{0});
  Append(&text, uint64_t{payload.size()});
  text += payload;
  Append(&text, CrcOf(text));
  return text;
}

std::string_view ParseFrame(std::string_view text, std::string_view magic,
                            const std::string& path) {
  const auto damaged = [&](size_t offset, const std::string& reason) {
    return BadData(path, static_cast<int64_t>(offset), reason,
                   "the checkpoint is damaged or incomplete; use another one");
  };
  if (text.size() < kHeaderBytes + kCrcBytes) {
    throw damaged(text.size(), "the file ends inside its header");
  }
  if (text.substr(0, magic.size()) != magic) throw damaged(0, "wrong magic bytes");
  const size_t end = text.size() - kCrcBytes;
  const auto length = Load<uint64_t>(text, 16);
  if (length != end - kHeaderBytes) {
    throw damaged(16, fmt::format("records {} bytes but holds {}", length, end - kHeaderBytes));
  }
  if (CrcOf(text.substr(0, end)) != Load<uint32_t>(text, end)) {
    throw damaged(end, "the CRC32C does not match");
  }
  if (const auto version = Load<uint32_t>(text, 8); version != kVersion) {
    throw BadData(path, 8, fmt::format("frame version {} is unknown", version),
                  "this checkpoint needs a newer version of Sepia");
  }
  if (Load<uint32_t>(text, 12) != 0) {
    throw BadData(path, 12, "unknown flags", "this checkpoint needs a newer version of Sepia");
  }
  return text.substr(kHeaderBytes, length);
}

std::string ReadFrame(const std::string& path, std::string_view magic, int64_t max_bytes) {
  return std::string(ParseFrame(ReadFile(path, max_bytes), magic, path));
}

}  // namespace sepia::checkpoint
