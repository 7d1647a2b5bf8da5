// Directories as transactions need them. Failures are UserError(kCannotWrite).
#pragma once

#include <string>

namespace sepia {

// mkdir of one level; one that is there already is well, so that several processes may call it.
void MakeDirectory(const std::string& path);

// Swaps two entries in one step. False where the file system cannot.
bool ExchangePaths(const std::string& a, const std::string& b);

// rm -r; symbolic links are removed, not followed. What is not there is well.
void RemoveTree(const std::string& path);

}  // namespace sepia
