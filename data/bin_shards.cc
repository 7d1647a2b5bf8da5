#include "data/bin_shards.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace sepia::data {
namespace {

constexpr size_t kDigits = 5;

struct ShardName {
  int64_t number;
  int64_t last_or_count;
  std::string path;
};

std::optional<int64_t> ParseDigits(std::string_view text) {
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

// "-00012-of-00082.bin"
std::optional<ShardName> ParseSuffix(std::string_view suffix, const std::string& path) {
  constexpr std::string_view kOf = "-of-";
  constexpr std::string_view kExtension = ".bin";
  if (suffix.size() != 1 + kDigits + kOf.size() + kDigits + kExtension.size()) return std::nullopt;
  if (suffix[0] != '-' || suffix.substr(1 + kDigits, kOf.size()) != kOf) return std::nullopt;
  if (suffix.substr(suffix.size() - kExtension.size()) != kExtension) return std::nullopt;
  const std::optional<int64_t> number = ParseDigits(suffix.substr(1, kDigits));
  const std::optional<int64_t> of = ParseDigits(suffix.substr(1 + kDigits + kOf.size(), kDigits));
  if (!number || !of) return std::nullopt;
  return ShardName{.number = *number, .last_or_count = *of, .path = path};
}

std::vector<ShardName> ListShards(const std::string& prefix) {
  const std::string directory = DirectoryOf(prefix);
  const std::string base = std::filesystem::path(prefix).filename();
  std::vector<ShardName> shards;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename();
    if (name.compare(0, base.size(), base) != 0) continue;
    const std::string_view suffix = std::string_view(name).substr(base.size());
    if (auto shard = ParseSuffix(suffix, it->path())) shards.push_back(*std::move(shard));
  }
  std::sort(shards.begin(), shards.end(), [](const ShardName& a, const ShardName& b) {
    return a.number != b.number ? a.number < b.number : a.last_or_count < b.last_or_count;
  });
  return shards;
}

}  // namespace

std::vector<std::string> FindBinFiles(const std::string& prefix) {
  const std::string single = prefix + ".bin";
  if (FileExists(single)) return {single};
  const std::vector<ShardName> shards = ListShards(prefix);
  if (shards.empty()) {
    throw BadData(single, -1, "no such file, and no shards like " + prefix + "-00000-of-00082.bin",
                  "check the prefix: it is the path without .bin");
  }
  std::vector<std::string> paths;
  const int64_t of = shards.front().last_or_count;
  for (const ShardName& shard : shards) {
    if (shard.last_or_count != of) {
      throw BadData(shard.path, -1, "shards of two different sets lie here",
                    "move one of the sets away");
    }
    if (shard.number != static_cast<int64_t>(paths.size())) {
      throw BadData(prefix, -1, fmt::format("shard {} is missing", paths.size()), "fetch it again");
    }
    paths.push_back(shard.path);
  }
  const auto count = static_cast<int64_t>(paths.size());
  if (count != of && count != of + 1) {
    throw BadData(prefix, -1, fmt::format("{} shards, but their names say {}", count, of),
                  "fetch the missing ones");
  }
  return paths;
}

}  // namespace sepia::data
