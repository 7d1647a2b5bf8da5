// A directory that appears under its name complete, or not at all.
#pragma once

#include <string>

namespace sepia::checkpoint {

// Filled at path(), a sibling of `final_path`; Commit() renames and syncs, the destructor removes
// what was not committed. Throws UserError(kUsage) when `final_path` exists and is not an empty
// directory. Not movable.
class NewDirectory {
 public:
  explicit NewDirectory(const std::string& final_path);
  ~NewDirectory();
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;

  const std::string& path() const { return temporary_; }
  void Commit();

 private:
  std::string final_path_;
  std::string temporary_;
};

}  // namespace sepia::checkpoint
