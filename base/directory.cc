#include "base/directory.h"

#include <linux/fs.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/file_calls.h"

namespace sepia {
namespace {

namespace fs = std::filesystem;

bool IsDirectory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

void RemoveOne(const fs::path& path, bool is_directory) {
  FileCalls& calls = ActiveFileCalls();
  const int result = is_directory ? calls.RemoveDirectory(path) : calls.Unlink(path);
  if (result != 0 && errno != ENOENT) throw CannotWrite(path, errno);
}

}  // namespace

void MakeDirectory(const std::string& path) {
  if (ActiveFileCalls().MakeDirectory(path) == 0) return;
  if (errno != EEXIST) throw CannotWrite(path, errno);
  if (!IsDirectory(path)) throw CannotWrite(path, ENOTDIR);
}

bool ExchangePaths(const std::string& a, const std::string& b) {
  if (ActiveFileCalls().Rename(a, b, RENAME_EXCHANGE) == 0) return true;
  if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) return false;
  throw CannotWrite(b, errno);
}

void RemoveTree(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) return;
  if (error) throw CannotWrite(path, error.value());
  std::vector<std::pair<fs::path, bool>> entries;  // parents before children
  if (fs::is_directory(status)) {
    for (fs::recursive_directory_iterator it(path, error), end; !error && it != end;
         it.increment(error)) {
      const bool is_directory = it->is_directory(error) && !it->is_symlink(error);
      entries.emplace_back(it->path(), is_directory);
    }
    if (error) throw CannotWrite(path, error.value());
  }
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    RemoveOne(entry->first, entry->second);
  }
  RemoveOne(path, fs::is_directory(status));
}

}  // namespace sepia
