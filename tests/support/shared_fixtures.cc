#include "tests/support/shared_fixtures.h"

#include <cstdlib>

#include "base/file.h"

namespace sepia::testing {

std::string SourcePath(const std::string& path) {
  return std::string(SEPIA_SOURCE_DIR) + "/" + path;
}

std::string SharedPath(const std::string& path) {
  const char* root = std::getenv("SEPIA_SHARED");
  const std::string full =
      (root != nullptr ? std::string(root) : SourcePath("../shared")) + "/" + path;
  return FileExists(full) ? full : std::string();
}

std::string GoldenPath(const std::string& path) { return SourcePath("tests/golden/" + path); }

bool SharedIsRequired() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && std::string(ci) == "true";
}

}  // namespace sepia::testing
