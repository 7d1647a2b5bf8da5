// Names that come from files and are opened in the folder of those files.
#pragma once

#include <string_view>

namespace sepia::checkpoint {

// Whether `name` stays inside its folder: no directory part, no NUL, not "." or "..".
inline bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace sepia::checkpoint
