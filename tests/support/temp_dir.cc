#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "base/check.h"

namespace sepia::testing {

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "sepia-test-XXXXXX").string();
  CHECK(mkdtemp(pattern.data()) != nullptr, "no temporary directory");
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace sepia::testing
