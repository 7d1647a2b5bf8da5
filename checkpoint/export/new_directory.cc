#include "checkpoint/export/new_directory.h"

#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"

namespace sepia::checkpoint {
namespace {

std::string WithoutTrailingSlash(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

}  // namespace

NewDirectory::NewDirectory(const std::string& final_path)
    : final_path_(WithoutTrailingSlash(final_path)),
      temporary_(fmt::format("{}.tmp-{}", final_path_, getpid())) {
  if (FileExists(final_path_) &&
      !(std::filesystem::is_directory(final_path_) && std::filesystem::is_empty(final_path_))) {
    throw UserError(fmt::format("{} exists; give a new or empty directory", final_path_));
  }
  CreateDirectories(temporary_);
}

NewDirectory::~NewDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(temporary_, ignored);  // nothing there after Commit
}

void NewDirectory::Commit() {
  SyncDirectory(temporary_);
  rmdir(final_path_.c_str());  // only succeeds for the empty directory that was allowed
  RenameNoReplace(temporary_, final_path_);
  SyncDirectory(DirectoryOf(final_path_));
}

}  // namespace sepia::checkpoint
